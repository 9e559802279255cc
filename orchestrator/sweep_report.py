"""What a finished sweep prints: its best trials, what failed and why, and where its files lie."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.trial_files import Outcome

SHOWN_TRIALS = 10


def report_sweep(sweep: Outcome, *, metric: str) -> None:
    """Print a sweep's best trials, what failed and why, and where the best settings lie."""
    console = Console()
    paths = list(dict.fromkeys(path for trial in sweep.trials for path in trial.values))
    scored = [trial for trial in sweep.trials if trial.score == trial.score]
    shown = scored[:SHOWN_TRIALS]
    title = f"best trials by {metric}, {len(shown)} of {len(sweep.trials)}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    headings = ("trial", "score %", "epochs", "", *(p.removeprefix("method.") for p in paths))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("trial", "") else "right")
    for trial in shown:
        values = (_shown(trial.values.get(path)) for path in paths)
        table.add_row(
            trial.name, f"{trial.score:.2%}".rstrip("%"), str(trial.epochs), trial.state, *values
        )
    console.print(table)
    for trial in sweep.trials:
        if trial.reason:
            text = f"trial {trial.name} {trial.state.upper()}: {trial.reason}"
            console.print(text, soft_wrap=True, highlight=False, markup=False)
    console.print(f"trials:        {sweep.folder}/", soft_wrap=True, highlight=False)
    if sweep.best is not None:
        console.print(f"best settings: {sweep.best_file}", soft_wrap=True, highlight=False)
    else:
        console.print("no trial has a score; nothing to train further", highlight=False)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
