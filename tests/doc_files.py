"""What the documents hold: commands, snippets, links, tables of settings; read, not run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<kind>[^\n`]*)\n(?P<text>.*?)^ *(?P=ticks)\n", re.M | re.S
)
_LINK = re.compile(r"(?<!`)\[[^\]\n]*(?:\n[^\]\n]*)?\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.M)
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: ``kind`` is the first word behind the fence."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README and everything in ``docs`` that is text."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def notebooks() -> list[Path]:
    return sorted(DOCS.rglob("*.ipynb"))


def blocks(*kinds: str) -> list[Block]:
    """The fenced blocks of some kinds on all pages, and notebooks' cells: python, and ``!`` sh."""
    found = [block for page in pages() for block in _fenced(page)]
    found += [cell for notebook in notebooks() for cell in _cells(notebook)]
    return [block for block in found if block.kind in kinds]


def _fenced(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        kind = (match["kind"].split() or [""])[0]
        indented = match["text"].splitlines()
        lines = [one.removeprefix(match["indent"]) for one in indented]
        yield Block(page, line, kind, "\n".join(lines) + "\n")


def _cells(notebook: Path) -> Iterator[Block]:
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        code = [line for line in lines if not line.startswith(("!", "%"))]
        yield Block(notebook, number, "python", "\n".join(code) + "\n")
        shell = [line[1:] for line in lines if line.startswith("!")]
        if shell:
            yield Block(notebook, number, "sh", "\n".join(shell) + "\n")


def commands(block: Block) -> list[list[str]]:
    """A block's commands as words; a backslash joins lines, and comments are left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, code left out."""
    text = _CODE.sub("", _FENCE.sub("", page.read_text()))
    return [match["target"] for match in _LINK.finditer(text)]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and the site name them."""
    text = _FENCE.sub("", page.read_text())
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in plain}


def table_rows(text: str, heading: str) -> list[tuple[str, ...]]:
    """The rows of the first table below a heading, its own headings left out."""
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"no heading '{heading}'"
    section = rest.split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines[2:]]


def settings(config: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Every field's name, default and what is allowed, as the pages' tables write them."""
    return [
        (f"`{name}`", _default(field.default), _allowed(field.annotation, field.metadata))
        for name, field in config.model_fields.items()
    ]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value == "":
        return "empty"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    kinds = {float: "number", int: "whole number", bool: "`true`, `false`", str: "text"}
    kind = kinds.get(annotation, "list of numbers")
    bounds = {
        name: getattr(one, name)
        for one in metadata
        for name in ("gt", "ge", "le")
        if hasattr(one, name)
    }
    match bounds:
        case {"gt": low, "le": high}:
            return f"{kind} above {low}, up to {high}"
        case {"ge": low, "le": high}:
            return f"{kind} from {low} to {high}"
        case {"gt": low}:
            return f"{kind} above {low}"
        case {"ge": low}:
            return f"{kind} from {low}"
        case _:
            return kind
