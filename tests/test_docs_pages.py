"""The pages hold what the code holds: settings, signals, messages; their links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from distill.config import Schedule
from distill.loading import load_experiment
from distill.methods import MethodConfig, config_class, method_names
from distill.taps import known_taps
from tests.doc_files import DOCS, ROOT, anchors, blocks, links, pages, settings, table_rows

CHAPTERS = (
    *("Formula", "Settings", "Signals", "Source", "Our reading", "In TensorBoard"),
    *("What it costs", "What to expect"),
)


def page_of(method: str) -> str:
    return (DOCS / "methods" / f"{method}.md").read_text()


@pytest.mark.parametrize("method", method_names())
def test_a_methods_page_has_its_chapters_and_settings(method: str) -> None:
    text = page_of(method)
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in CHAPTERS] == list(CHAPTERS)
    rows = table_rows(text, "Settings")
    assert [row[:3] for row in rows] == settings(config_class(method))
    assert all(row[3] for row in rows)


@pytest.mark.parametrize("method", method_names())
def test_a_methods_page_names_what_it_records(method: str) -> None:
    found = re.search(r"In `demo`: (none|`.*?`)\.", page_of(method).replace("\n", " "))
    assert found is not None
    assert set(re.findall(r"`([^`]+)`", found[1])) == signals_of(configured(method))


def configured(method: str) -> MethodConfig:
    """With its defaults, and what it cannot do without."""
    wanted = {"gpac": {"assignment": "s1:t0,s2:t1,s3:t0"}}
    return config_class(method).model_validate(wanted.get(method, {}))


def signals_of(method: MethodConfig) -> set[str]:
    demo = load_experiment("demo")
    teachers = {teacher.name: known_taps(teacher.arch, teacher.taps) for teacher in demo.teachers}
    needs = method.needs(teachers, known_taps(demo.student.arch, demo.student.taps))
    return {str(spec) for specs in needs.values() for spec in specs}


def test_the_methods_index_leads_to_every_page() -> None:
    index = DOCS / "methods" / "index.md"
    found = {target.removesuffix(".md") for target in links(index)}
    assert set(method_names()) <= found
    (listed,) = (block.text for block in blocks("{toctree}") if block.page == index)
    assert set(listed.split()) >= set(method_names())


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue  # another site's
        name, _, anchor = target.partition("#")
        file = page.parent / unquote(name) if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_site() -> None:
    listed = {DOCS / "index.md"}
    for block in blocks("{toctree}"):
        names = [line for line in block.text.splitlines() if line and not line.startswith(":")]
        for name in names:
            listed |= set(block.page.parent.glob(f"{name}.*"))
    written = {page for page in pages() if DOCS in page.parents} | set(DOCS.rglob("*.ipynb"))
    assert written <= listed


def literals() -> Iterator[str]:
    """Every text in the product's source; what is filled in is a zero byte."""
    packages = [*(ROOT / "distill").rglob("*.py"), *(ROOT / "orchestrator").rglob("*.py")]
    for file in (*packages, ROOT / "search_spaces" / "__init__.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.JoinedStr(values=values):
                    yield "".join(
                        str(value.value) if isinstance(value, ast.Constant) else "\0"
                        for value in values
                    )
                case ast.Constant(value=str(text)):
                    yield text


def test_every_message_of_the_troubleshooting_page_is_still_printed() -> None:
    known = "\n".join(text.replace("\n", " ") for text in literals())
    quoted = [block for block in blocks("text") if block.page.name == "troubleshooting.md"]
    lines = [line.removeprefix("error: ") for block in quoted for line in block.text.splitlines()]
    assert len(lines) > 50
    gone = [line for line in lines if not re.search(pattern(line), known)]
    assert gone == []


def pattern(message: str) -> str:
    """The constant parts of a message, in order within one text of the source."""
    parts = [part for part in message.split("…") if part]
    return "[^\n]*?".join(map(re.escape, parts))


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """How the site is made."""
    spec = importlib.util.spec_from_file_location("site_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_tells_fields_with_their_comments(site: ModuleType) -> None:
    fields = list(site.fields_of(Schedule))
    assert fields[0] == "- ``epochs: PositiveInt = 240``"
    assert fields[1] == "- ``batch_size: PositiveInt = 64``: global: over all workers"
    assert any(
        line.endswith(
            "150, 180 and 210 of 240 epochs (Tian et al., ICLR 2020), as fractions of training."
        )
        for line in fields
    )


def test_a_notebooks_cell_is_shown_with_what_it_printed(site: ModuleType) -> None:
    printed = {"output_type": "stream", "text": ["2\n"]}
    cell = {"cell_type": "code", "source": ["print(1 + 1)"], "outputs": [printed]}
    assert list(site._cell(cell)) == ["````python\nprint(1 + 1)\n````", "````text\n2\n````"]
    assert list(site._cell({"cell_type": "markdown", "source": ["# A"]})) == ["# A"]
