"""The notebook's cells run, one after the other, in this process and its Ray."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import distill
from distill.datasets import load_data
from orchestrator.preparation import file_accuracy
from tests.helpers import prepare, two_teachers, write_fashion

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"


def code_cells() -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any], names: dict[str, Any]) -> Any:
    """Run a cell; what it would show is the value of its last expression."""
    body = ast.parse("".join(cell["source"])).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.ray
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    few = write_fashion(tmp_path / "few.npz", num_train=120, num_test=40)
    experiment = two_teachers(few, tmp_path, {"signals.source": "local", "schedule.epochs": 2})
    for teacher in prepare(experiment):  # known, so no actors are started to measure it
        file_accuracy(teacher, load_data(experiment.data), 0.5)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(experiment.as_dict()))

    first, *others = code_cells()
    names: dict[str, Any] = {}
    assert shown(first, names) is None
    assert distill.load_experiment(names["EXPERIMENT"], names["SETTINGS"]).schedule.epochs == 3
    names |= {"EXPERIMENT": str(tmp_path / "tiny.yaml"), "SETTINGS": []}
    folder, metrics, results, answers, runs = [shown(cell, names) for cell in others]
    assert (folder / "result.json").is_file()
    assert isinstance(metrics, pd.DataFrame)
    assert metrics["epoch"].tolist() == [0, 1]
    assert results[1]["a"]["accuracy"] == 0.5
    assert [len(answer) for answer in answers] == [8, 8]
    assert list(runs.values()) == [results[0]]


def test_the_notebook_is_kept_without_what_it_showed() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())
