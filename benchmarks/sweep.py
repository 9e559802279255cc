"""A sweep of 8 trials over shared records, against 8 runs with three teachers in their loops.

``python -m benchmarks.sweep [--quick] [--json FILE]`` searches the space ``kd``: the sweep trains
each trial for as many epochs as a run, Ray's start and the recording counted in, the best settings'
own runs not. A separate run is ``train`` with ``signals.source=local``, a command of its own, which
has all cores to itself, while trials share them. With --quick one of them is measured and counted 8
times; without, all are.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Results, Target, arguments, report
from benchmarks.workbench import QUICK_DATA
from distill.config import Experiment
from distill.loading import apply_override, load_experiment, validate
from orchestrator.candidates import Space
from orchestrator.display import Display
from orchestrator.sweep_plan import Plan
from orchestrator.sweeps import run_sweep
from search_spaces import load_space

NUM_TRIALS = 8
SPACE = "kd"
FULL_DATA = {"name": "fashion_mnist_10k"}
TARGETS = {"sweep_over_separate": Target("at most", 0.25)}


def make_base(folder: Path, data: Mapping[str, Any], *, epochs: int) -> Experiment:
    """The demo's three teachers and student; every run trains in one process."""
    raw = load_experiment("demo").as_dict()
    changes = {
        "data": {"cache_dir": str(folder / "cache"), **data},
        "baselines": [],
        "seeds": [0],
        "schedule.epochs": epochs,
        "workers": {"count": 0, "cpus": 1},
        "signals.root": str(folder / "signals"),
        "output.root": str(folder / "runs"),
    }
    for path, value in changes.items():
        apply_override(raw, path, value)
    return validate(raw)


def sweep_seconds(base: Experiment) -> float:
    """From nothing to the best trial's settings."""
    began = time.perf_counter()
    space = Space.of(SPACE, load_space(SPACE))
    with Display(io.StringIO()) as display:
        outcome = run_sweep(base, space, Plan(num_trials=NUM_TRIALS), display)
    took = time.perf_counter() - began
    unfinished = [trial for trial in outcome.trials if trial.state != "finished"]
    if unfinished or len(outcome.trials) != NUM_TRIALS:
        raise RuntimeError(f"not {NUM_TRIALS} finished trials: {outcome.trials}")
    return took


def run_seconds(base: Experiment, file: Path, temperature: float) -> float:
    """One run with its teachers in its loop and every core, to the end of its process."""
    import yaml

    file.write_text(yaml.safe_dump(base.as_dict()))
    settings = (
        "signals.source=local",
        f"method.temperature={temperature}",
        f"workers.cpus={os.cpu_count()}",
    )
    options = [part for setting in settings for part in ("-s", setting)]
    began = time.perf_counter()
    command = [sys.executable, "-m", "distill.run", "train", str(file), *options]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(folder: Path, data: Mapping[str, Any], *, epochs: int, num_runs: int) -> Results:
    base = make_base(folder, data, epochs=epochs)
    results = Results()
    runs = [
        run_seconds(base, folder / "run.yaml", temperature=1.0 + index) for index in range(num_runs)
    ]
    separate = sum(runs) * NUM_TRIALS / num_runs
    sweep = sweep_seconds(base)
    note = f"{NUM_TRIALS} runs, {num_runs} of them measured"
    results.add("separate_s", separate, note)
    results.add("sweep_s", sweep, f"{NUM_TRIALS} trials, recording and start included")
    results.add("sweep_over_separate", sweep / separate)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(__doc__).parse_args(argv)
    data = QUICK_DATA if options.quick else FULL_DATA
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        results = measure(
            Path(folder),
            data,
            epochs=2 if options.quick else 12,
            num_runs=1 if options.quick else NUM_TRIALS,
        )
    report(f"A sweep on {data['name']}", results, targets=TARGETS, json_file=options.json)


if __name__ == "__main__":
    main()
