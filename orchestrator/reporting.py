"""What a finished job prints: the table, where things lie, and the picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from distill.config import Experiment
from orchestrator.comparison import comparison_table
from orchestrator.pipeline import Outcome
from orchestrator.plots import plot_comparison
from orchestrator.runs import find_runs, index


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


def compare_runs(roots: Iterable[Path], *, by: str) -> None:
    """Print the comparison of every finished run below some folders. Raises ValueError."""
    runs = [run for root in roots for run in find_runs(root)]
    if not runs:
        raise ValueError(f"runs: no run lies below {', '.join(map(str, roots))}; train one first")
    Console().print(comparison_table(index(runs), by=by))
