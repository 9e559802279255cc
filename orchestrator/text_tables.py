"""A table of texts, for a terminal and for Markdown alike, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from rich.table import Table

NONE = "–"


@final
@dataclass(frozen=True, slots=True)
class TextTable:
    """Headings, and rows in groups that a line sets apart; every row has a cell a heading."""

    headings: Sequence[str]
    groups: Sequence[Sequence[Sequence[str]]]
    caption: str
    yielding: Sequence[str] = ()  # headings that a narrow terminal lacks, the first to go first

    def as_rich(self, *, title: str = "", width: int = 80) -> Table:
        """For a terminal of ``width`` columns; what does not fit is left out, and that is said."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        places = self._fitting(width)
        missing = [name for i, name in enumerate(self.headings) if i not in places]
        hint = f"; no room here for: {', '.join(missing)}" if missing else ""
        table = Table(
            title=title or None,
            caption=Text(self.caption + hint),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for i in places:
            justify = "right" if i else "left"
            table.add_column(Text(self.headings[i]), justify=justify, overflow="fold")
        for rows in self.groups:
            for row in rows:
                table.add_row(*(Text(row[i]) for i in places))
            table.add_section()
        return table

    def _fitting(self, width: int) -> list[int]:
        """The columns that a terminal has room for; all that may not be left out are among them."""
        rows = [self.headings, *(row for rows in self.groups for row in rows)]
        # Beside its text a column takes a space on both sides; one more ends the line.
        widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(self.headings))]
        kept = list(range(len(widths)))
        for heading in self.yielding:
            if sum(widths[i] for i in kept) + 1 > width:
                kept.remove(self.headings.index(heading))
        return kept

    def as_markdown(self) -> str:
        """As a Markdown table with its caption below, every column in it."""
        rule = ["---", *("--:" for _ in self.headings[1:])]
        rows = [self.headings, rule, *(row for rows in self.groups for row in rows)]
        lines = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
        return "\n".join([*lines, "", f"*{self.caption}*", ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def percent(mean: float, spread: float, *, sign: str = "") -> str:
    """A fraction in percent, with its spread; a dash for what is NaN."""
    if math.isnan(mean):
        return NONE
    spread_text = NONE if math.isnan(spread) else f"{100 * spread:.2f}"
    return f"{100 * mean:{sign}.2f} ± {spread_text}"


def scaled(number: float, *, unit: str = "") -> str:
    """Three digits and a decimal prefix, as ``1.73M`` or, with unit B, ``1.73 MB``."""
    if math.isnan(number):
        return NONE
    space = " " if unit else ""
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{space}{prefix}{unit}"
    return f"{number:.0f}{space}{unit}"


def seconds(number: float) -> str:
    """Whole seconds, with thousands set apart."""
    return NONE if math.isnan(number) else f"{number:,.0f}"


def plain(value: Any) -> str:
    """A setting as a person would write it: four digits of a number, a dash for none."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
