"""How near ``plan`` and its simulation come to what then happens on this machine.

``python -m benchmarks.plan [--quick] [--json FILE]`` plans the demo with nothing recorded, plays
the planned workload through the simulation, runs ``train demo`` in a folder of its own, and
compares: of recording, the time from the first part's file to the last one's, and in proportion the
first part; of training, what runs say in ``result.json``; of the whole, the command's. Once for
recording before training (the demo as it is on two cores), once for recording beside it (fewer CPUs
asked for). --quick takes 4 epochs and the first of the two, once; else 12 epochs, and medians of 3
rounds, with a plan made anew for each: a shared machine's speed drifts. Its exit status is 1 where
a target is missed, so that it is a test for a machine that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from benchmarks.common import Results, Target, arguments, report
from distill.loading import load_experiment
from orchestrator.forecast import Forecast
from orchestrator.plans import forecast_of, plan_experiment
from orchestrator.simulation import simulate

PHASES = ("recording", "training", "total")
CASES: Mapping[str, Sequence[str]] = {
    "before": (),
    "beside": ("workers.cpus=1", *(f"teachers[{index}].cpus=0.3" for index in range(3))),
}
TARGETS = {
    **{f"{case}_planned_error": Target("at most", 0.25) for case in CASES},
    **{f"{case}_simulated_error": Target("at most", 0.20) for case in CASES},
}


@final
@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of each phase: planned, simulated, and then taken."""

    planned: Mapping[str, float]
    simulated: Mapping[str, float]
    taken: Mapping[str, float]


def options_of(folder: Path, case: str, *, epochs: int) -> list[str]:
    """The demo's settings: a folder of its own, and what the case changes."""
    return [
        f"output.root={folder / 'runs'}",
        f"signals.root={folder / 'signals'}",
        f"schedule.epochs={epochs}",
        *CASES[case],
    ]


def measure_round(folder: Path, options: Sequence[str]) -> Round:
    """Plan and simulate in this process, then train by the command."""
    found = forecast_of(plan_experiment(load_experiment("demo", options)))
    given = [part for option in options for part in ("-s", option)]
    began = time.perf_counter()
    command = [sys.executable, "-m", "distill.run", "train", "demo", *given]
    subprocess.run(command, check=True, capture_output=True)
    total = time.perf_counter() - began
    planned = {
        "recording": found.estimate.recording_s,
        "training": sum(found.estimate.runs.values()),
        "total": found.estimate.total_s,
    }
    return Round(planned, play(found), {**taken_below(folder, found), "total": total})


def play(found: Forecast) -> dict[str, float]:
    """The same phases in the simulation."""
    played = simulate(found.load, found.site, jitter=0.1)
    before = found.load.start_s + sum(found.load.before_s.values())
    return {
        "recording": played.recording_s,
        "training": sum(played.runs.values()),
        "total": before + played.end_s,
    }


def taken_below(folder: Path, found: Forecast) -> dict[str, float]:
    """What recording and runs took, by what they left in a folder."""
    written = [path.stat().st_mtime for path in (folder / "signals").rglob("part-*.arrow")]
    runs = [json.loads(path.read_text()) for path in (folder / "runs").rglob("result.json")]
    # The first part ends when the clock starts: in proportion to its images, it is added.
    teacher = found.load.teachers[0]
    first = min(4096, teacher.images // len(teacher.passes)) / teacher.images
    return {
        "recording": (max(written) - min(written)) / (1 - first),
        "training": sum(run["seconds"] for run in runs),
    }


def summarise(rounds: Mapping[str, Sequence[Round]]) -> Results:
    """Seconds taken; planned and simulated ones over them; how far the wholes are from 1."""
    results = Results()
    for case, measured in rounds.items():
        for phase in PHASES:
            taken = statistics.median(one.taken[phase] for one in measured)
            results.add(f"{case}_{phase}_s", taken, f"{phase} {case} training, as it was")
        for side in ("planned", "simulated"):
            for phase in PHASES:
                ratios = [getattr(one, side)[phase] / one.taken[phase] for one in measured]
                results.add(f"{case}_{side}_{phase}", statistics.median(ratios), "over taken")
            whole = results.figures[f"{case}_{side}_total"]
            results.add(f"{case}_{side}_error", abs(whole - 1), "of the whole")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(__doc__).parse_args(argv)
    cases = tuple(CASES)[:1] if options.quick else tuple(CASES)
    rounds: dict[str, list[Round]] = {case: [] for case in cases}
    for _ in range(1 if options.quick else 3):
        for case in cases:
            with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
                settings = options_of(Path(folder), case, epochs=4 if options.quick else 12)
                rounds[case].append(measure_round(Path(folder), settings))
    title = "The demo, planned and simulated"
    met = report(title, summarise(rounds), targets=TARGETS, json_file=options.json)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
