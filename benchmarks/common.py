"""What the benchmarks share: interleaved rounds, medians, one table, one flat JSON object.

A shared machine's speed drifts. So variants take turns: each runs once a round, and a ratio is the
median over rounds of that round's ratio, never of two medians from different minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

FILE_WIDTH = 120  # characters of a table that is not shown on a terminal

Rounds = Mapping[str, Sequence[float]]  # variant -> its measurement in each round


@final
@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must not miss."""

    bound: Literal["at most", "at least"]
    value: float

    def met(self, figure: float) -> bool:
        return figure <= self.value if self.bound == "at most" else figure >= self.value


@final
@dataclass(slots=True)
class Results:
    """Named figures, in the order in which they are shown; ``note`` says what one is."""

    figures: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, figure: float, note: str = "") -> None:
        self.figures[name] = float(figure)
        self.notes[name] = note


def interleaved(
    calls: Mapping[str, Callable[[], float]], *, num_rounds: int, warm_up: bool = True
) -> Rounds:
    """What each call returns, once a round, after one round to warm up.

    Every other round runs backwards, so that a drift favours no variant.
    """
    for call in calls.values() if warm_up else ():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(num_rounds):
        names = list(calls)
        for name in names if index % 2 == 0 else reversed(names):
            found[name].append(calls[name]())
    return found


def median_ratio(rounds: Rounds, over: str, under: str) -> float:
    """The median over rounds of ``over`` / ``under``."""
    pairs = zip(rounds[over], rounds[under], strict=True)
    return statistics.median(a / b for a, b in pairs)


def median(rounds: Rounds, name: str) -> float:
    return statistics.median(rounds[name])


def seconds(call: Callable[[], object]) -> float:
    """What one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows what every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small data and few rounds: < 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


def environment() -> str:
    """Where the figures come from, on one line."""
    import torch

    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, load {load:.1f}; Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def report(
    title: str,
    results: Results,
    *,
    targets: Mapping[str, Target] | None = None,
    json_file: Path | None = None,
) -> bool:
    """Print the figures as a table, with their targets, and write them as one flat object.

    Whether every target is met.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=environment(), caption_justify="left")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("target")
    table.add_column("what it is")
    missed = False
    for name, figure in results.figures.items():
        target = (targets or {}).get(name)
        shown = ""
        if target is not None:
            met = target.met(figure)
            shown = f"{target.bound} {target.value:g}: {'met' if met else 'MISSED'}"
            missed = missed or not met
        table.add_row(name, f"{figure:,.4g}", shown, results.notes[name])
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    console.print(table)
    if json_file is not None:
        content = {**results.figures, "environment": environment()}
        json_file.write_text(json.dumps(content, indent=2) + "\n")
    return not missed


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
