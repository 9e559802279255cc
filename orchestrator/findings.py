"""What ``tutelage doctor`` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """``missing``: something will fail; ``note``: something will be slower, or cannot be used."""

    state: Literal["well", "note", "missing"]
    text: str
    mend: str = ""  # a command, where there is one


def well(text: str) -> Finding:
    return Finding("well", text)


def note(text: str, mend: str = "") -> Finding:
    return Finding("note", text, mend)


def missing(text: str, mend: str = "") -> Finding:
    return Finding("missing", text, mend)
