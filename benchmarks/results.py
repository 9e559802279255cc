"""The table of docs/results.md: every method by one protocol, the same teachers, five seeds.

``python -m benchmarks.results [--jobs N]`` trains the teachers where that is not done, then every
``fmnist`` experiment, N of them at a time (default: one a core), and prints the comparison. What is
finished is kept: the same command goes on after an interruption. ``fmnist_twice``, cross-entropy
for twice the epochs, shows whether the student had converged.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

from distill.loading import load_experiment, shipped_experiments

BASE = "fmnist"
TWICE = "fmnist_twice"
LONGEST = "fmnist_atsc"  # trains its teachers in every run: its seeds run apart, and begin first
COMMAND = (sys.executable, "-m", "distill.run")


@final
class Log:
    """One file for what the experiments print, and a line here when one begins and ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, arguments: Sequence[str]) -> bool:
        """Run one command to its end; whether it succeeded."""
        file = self.folder / f"{name}.log"
        began = time.monotonic()
        print(f"{name}: begins", flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # they share the cores already
        with file.open("w") as output:
            status = subprocess.run(
                [*COMMAND, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            ).returncode
        minutes = (time.monotonic() - began) / 60
        outcome = "done" if status == 0 else f"FAILED with status {status}; see {file}"
        print(f"{name}: {outcome}, {minutes:.1f} min", flush=True)
        return status == 0


def jobs() -> dict[str, list[str]]:
    """The arguments of every training, by name, the longest first."""
    seeds = load_experiment(LONGEST).seeds
    trainings = {f"{LONGEST}-{seed}": [LONGEST, "-s", f"seeds=[{seed}]"] for seed in seeds}
    epochs = 2 * load_experiment(BASE).schedule.epochs
    twice = [f"name={TWICE}", "method=ce", "baselines=[]", f"schedule.epochs={epochs}"]
    trainings[TWICE] = [BASE, *(part for text in twice for part in ("-s", text))]
    for name in shipped_experiments():
        if name == BASE or (name.startswith(f"{BASE}_") and name != LONGEST):
            trainings[name] = [name]
    return {name: ["train", *arguments] for name, arguments in trainings.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        parser.error(f"--jobs: {options.jobs} is not a number of experiments; give 1 or more")
    root = load_experiment(BASE).output.root
    log = Log(root / BASE / "logs")
    # First and alone, so that no two drivers train the same teachers.
    if not log.run(f"{BASE}-records", ["cache", BASE]):
        return 1
    with ThreadPoolExecutor(options.jobs) as executor:
        done = list(executor.map(lambda job: log.run(*job), jobs().items()))
    folders = [str(root / name) for name in (BASE, TWICE)]
    subprocess.run([*COMMAND, "compare", *folders], check=False)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
