"""What a finished sweep prints: its best trials, what failed and why, and where its files lie."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.sweeps import Outcome

SHOWN_TRIALS = 10


def report_sweep(sweep: Outcome, *, metric: str) -> None:
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
