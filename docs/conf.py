"""How Sphinx makes the site: ``make docs`` builds it into ``build/site``; a warning is an error."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from distill import __version__

logger = logging.getLogger(__name__)

project = "Tutelage"
release = __version__
html_title = "Tutelage"
html_theme = "furo"
html_show_copyright = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_math_renderer = "mathml"  # made here: no script of another site's, and bad TeX is an error
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
exclude_patterns = ["**/.ipynb_checkpoints"]
suppress_warnings = ["misc.highlighting_failure"]  # a lexer's doubt, not a mistake of a page

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub names them, so that links work in both places

autodoc_default_options = {"member-order": "bysource", "exclude-members": "model_config"}
# Annotations stay as they are written: Float[Tensor, "B C"] says more than Tensor does.
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True


def fields_of(cls: type) -> Iterator[str]:
    """A list in reStructuredText: what a class declares, and the comments that stand at it."""
    lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if node.target.id.startswith("_") or "ClassVar" in ast.unparse(node.annotation):
            continue
        comment = _comment(lines, first=node.lineno - 1, last=(node.end_lineno or node.lineno) - 1)
        # In literal text a backtick has no escape; none of our annotations has one.
        yield f"- ``{' '.join(ast.unparse(node).split())}``" + (f": {comment}" if comment else "")


def _comment(lines: list[str], *, first: int, last: int) -> str:
    """The comment behind a field, or the lines of comment above it, without markup."""
    behind = re.search(r"  # (.*)$", lines[last])
    above: list[str] = []
    while lines[first - 1].strip().startswith("#"):
        first -= 1
        above.insert(0, lines[first].strip("# "))
    found = [*above, *([behind[1]] if behind else [])]
    return re.sub(r"([*`|_\\])", r"\\\1", " ".join(found))


def add_fields(
    app: Sphinx, what: str, name: str, subject: object, options: Any, lines: list[str]
) -> None:
    """Say of a class what can be given, which its docstring leaves to the source's comments."""
    del app, name, options
    if what == "class" and isinstance(subject, type) and inspect.get_annotations(subject):
        fields = list(fields_of(subject))
        if fields:
            lines += ["", *fields, ""]


def hide_signature(
    app: Sphinx, what: str, name: str, subject: object, options: Any, *signature: str | None
) -> tuple[str, None] | None:
    """Of a configuration: pydantic resolves its fields' names; the list shows them as written."""
    del app, name, options, signature
    hidden = what == "class" and isinstance(subject, type) and issubclass(subject, BaseModel)
    return ("", None) if hidden else None


def read_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """A notebook as a page: its text, its code, and what the code printed when it was saved."""
    if app.env.doc2path(docname).suffix != ".ipynb":
        return
    cells = json.loads(source[0])["cells"]
    source[0] = "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield text
        return
    yield f"````python\n{text}\n````"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join(data["image/png"]).replace("\n", "")
            yield f'<img src="data:image/png;base64,{picture}" alt="what the code above draws">'
        elif shown := "".join(data.get("text/plain", output.get("text", ""))).rstrip():
            yield f"````text\n{shown}\n````"


def write_math(writer: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    is_block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if is_block else "inline")
    if "\\" in formula:  # what the converter does not know stays as it was
        logger.warning("no MathML for all of %s", node.astext(), location=node)
    writer.body.append(f'<div class="formula">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    # index.md lists whatever tutorials and results there are; that there are none is no mistake.
    logging.getLogger("sphinx.directives.other").logger.addFilter(
        lambda record: getattr(record, "subtype", None) != "empty_glob"
    )
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("source-read", read_notebook)
