"""What a finished job prints: the table, where things lie, and the picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from distill.config import Experiment
from orchestrator.comparison import comparison_table
from orchestrator.pipeline import Outcome
from orchestrator.plots import plot_comparison
from orchestrator.runs import find_runs, index
from orchestrator.sweeps import Outcome as SweepOutcome


def report(experiment: Experiment, outcome: Outcome) -> None:
    """Print the comparison of an experiment's runs, and where to look further."""
    if not outcome.runs:
        return
    folder = experiment.output.root / experiment.name
    picture = folder / "comparison.png"
    plot_comparison(list(outcome.runs), picture, title=experiment.name)
    console = Console()
    console.print(comparison_table(index(outcome.runs), title=experiment.name))
    console.print(f"runs:         {folder}/", soft_wrap=True, highlight=False)
    console.print(f"plot:         {picture}", soft_wrap=True, highlight=False)
    console.print(f"TensorBoard:  tensorboard --logdir {folder}", soft_wrap=True, highlight=False)


SHOWN_TRIALS = 10


def report_sweep(sweep: SweepOutcome, *, metric: str) -> None:
    """Print a sweep's best trials, what failed and why, and where the best settings lie."""
    console = Console()
    paths = list(dict.fromkeys(path for trial in sweep.trials for path in trial.values))
    table = Table(title="best trials", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("trial", metric, "epochs", *(path.removeprefix("method.") for path in paths)):
        table.add_column(heading, justify="left" if heading == "trial" else "right")
    for trial in [trial for trial in sweep.trials if trial.state != "failed"][:SHOWN_TRIALS]:
        cells = (_shown(trial.values.get(path)) for path in paths)
        table.add_row(trial.name, f"{trial.score:.4f}", str(trial.epochs), *cells)
    console.print(table)
    for trial in sweep.trials:
        if trial.state == "failed":
            console.print(f"trial {trial.name} FAILED: {trial.reason}", soft_wrap=True)
    if sweep.best is not None:
        console.print(f"best settings: {sweep.best_file}", soft_wrap=True, highlight=False)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def compare_runs(roots: Iterable[Path], *, by: str) -> None:
    """Print the comparison of every finished run below some folders. Raises ValueError."""
    runs = [run for root in roots for run in find_runs(root)]
    if not runs:
        raise ValueError(f"runs: no run lies below {', '.join(map(str, roots))}; train one first")
    Console().print(comparison_table(index(runs), by=by))
