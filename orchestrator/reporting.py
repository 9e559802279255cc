"""What a finished job prints and what a comparison leaves: tables, pictures, where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from distill.config import Experiment
from orchestrator.comparison import compare, comparison_table
from orchestrator.cost_plot import draw_cost
from orchestrator.drawing import NothingToDraw, save
from orchestrator.plots import draw_comparison
from orchestrator.run_index import index
from orchestrator.runs import RunFolder, write_atomically
from orchestrator.selection import Selection, select
from orchestrator.text_tables import TextTable
from orchestrator.trial_plot import draw_trials
from orchestrator.trial_table import compare_trials, scored_trials, trials_table
from orchestrator.weight_plot import draw_weights_over_epochs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from orchestrator.pipeline import Outcome

_PICTURE = "comparison.png"


def report(experiment: Experiment, outcome: Outcome) -> None:
    """Print the comparison of an experiment's runs, and where to look further."""
    if not outcome.runs:
        return
    folder = experiment.output.root / experiment.name
    table = index(outcome.runs)
    console = Console()
    shown = comparison_table(table).as_rich(title=experiment.name, width=console.width)
    console.print(shown)
    draw = partial(draw_comparison, table, title=experiment.name)
    picture = _drawn(draw, folder / _PICTURE, label="plot:         ")
    _say(console, f"runs:         {folder}/")
    _say(console, picture)
    _say(console, f"TensorBoard:  tutelage board {folder}")


def compare_runs(folders: Sequence[Path], *, by: str | None, output: Path | None) -> None:
    """Print the comparison of all runs below some folders, and write its tables and pictures.

    Raises ConfigError where there is nothing to compare, or ``by`` is no column.
    """
    selection = select(folders)
    numbers, shown = _tables(selection, by)
    folder = selection.folder if output is None else output
    folder.mkdir(parents=True, exist_ok=True)
    text = shown.as_markdown()
    for name, write in (
        ("comparison.csv", lambda draft: numbers.to_csv(draft, index=False)),
        ("comparison.parquet", lambda draft: numbers.to_parquet(draft, index=False)),
        ("comparison.md", lambda draft: draft.write_text(text, encoding="utf-8")),
    ):
        write_atomically(folder / name, write)
    console = Console()
    console.print(shown.as_rich(title=selection.title, width=console.width))
    for note in (*selection.notes, *_failures(selection)):
        _say(console, note)
    _say(console, f"tables:   {folder / 'comparison.md'}, .csv, .parquet")
    for name, draw in _pictures(selection, by or "method").items():
        _say(console, _drawn(draw, folder / name, label="picture:  "))


def _tables(selection: Selection, by: str | None) -> tuple[pd.DataFrame, TextTable]:
    table = selection.table
    if selection.of_trials:
        return compare_trials(table, by=by), trials_table(table, by=by)
    column = by or "method"
    return compare(table, by=column), comparison_table(table, by=column)


def _failures(selection: Selection) -> list[str]:
    if not selection.of_trials:
        return []
    trials = scored_trials(selection.table)
    named = [(t.row["digest"], t.state, t.row["reason"]) for t in trials if t.row["reason"]]
    return [f"trial {name} {state.upper()}: {reason}" for name, state, reason in named]


def _pictures(selection: Selection, by: str) -> dict[str, Callable[[], Figure]]:
    table, title = selection.table, selection.title
    if not selection.of_trials:
        return {
            _PICTURE: partial(draw_comparison, table, by=by, title=title),
            "cost.png": partial(draw_cost, table, by=by, title=title),
            "teacher_weights.png": partial(draw_weights_over_epochs, table, by=by, title=title),
        }
    sweeps = {f"{run.experiment_folder.name}-{run.sweep}": rows for run, rows in _by_sweep(table)}

    return {
        "trials.png" if len(sweeps) == 1 else f"trials-{name}.png": partial(
            draw_trials, rows, title=name
        )
        for name, rows in sweeps.items()
    }


def _by_sweep(table: pd.DataFrame) -> list[tuple[RunFolder, pd.DataFrame]]:
    """The rows of each sweep, and one of its runs."""
    groups = [rows for _, rows in table.groupby(["experiment", "sweep"])]
    return [(RunFolder(Path(rows["path"].iloc[0])), rows) for rows in groups]


def _drawn(draw: Callable[[], Figure], path: Path, *, label: str) -> str:
    """Where a picture was written; or that there is none, not an earlier one either, and why."""
    try:
        figure = draw()
    except NothingToDraw as reason:
        path.unlink(missing_ok=True)
        return f"no {path.name}: {reason}"
    save(figure, path)
    return f"{label}{path}"


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
