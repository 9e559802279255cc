"""The golden cases agree, and the runner that says so notices what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.__main__ import check_name, main
from tests.golden.checks import CHECKS

GOLDEN = Path(__file__).parent / "golden"


def copy(case: str, path: Path, **changes: np.ndarray) -> None:
    with np.load(GOLDEN / f"{case}.npz") as stored:
        arrays: dict[str, Any] = {**stored, **changes}
    np.savez(path, **arrays)


def test_every_golden_case_agrees_and_every_check_has_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(GOLDEN)]) == 0, capsys.readouterr().out
    assert {path.stem for path in GOLDEN.glob("*.npz")} == set(CHECKS)


def test_a_tampered_array_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(GOLDEN / "kd.npz") as stored:
        tampered = stored["grad_student_logits"].copy()
    tampered[0, 0] += 1e-6
    copy("kd", tmp_path / "kd.npz", grad_student_logits=tampered)
    assert main([str(tmp_path)]) == 1
    assert "FAILED kd: grad_student_logits is off by" in capsys.readouterr().out


def test_a_nan_and_a_wrong_shape_fail(tmp_path: Path) -> None:
    copy("pkt", tmp_path / "pkt.npz", loss=np.array(np.nan))
    assert main([str(tmp_path)]) == 1
    copy("pkt", tmp_path / "pkt.npz", loss=np.zeros((1, 1)))
    assert main([str(tmp_path)]) == 1


def test_an_unknown_case_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy("kd", tmp_path / "kdx.npz")
    assert main([str(tmp_path)]) == 1
    assert "FAILED kdx: no check for this case" in capsys.readouterr().out


def test_an_array_that_nothing_reads_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy("kd", tmp_path / "kd.npz", grad_teacher_logits=np.zeros((8, 10)))
    assert main([str(tmp_path)]) == 1
    assert "FAILED kd: grad_teacher_logits was not compared" in capsys.readouterr().out


def test_a_missing_array_fails_and_an_empty_directory_is_a_mistake(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2
    np.savez(tmp_path / "kd.npz", hp=json.dumps({"temperature": 4.0}))
    assert main([str(tmp_path)]) == 1


def test_other_shapes_and_a_suffix_are_fine(tmp_path: Path) -> None:
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 3))
    q, p = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (student, teacher))
    per_sample = 4 * (p * np.log(p / q)).sum(1)
    outputs = {
        "per_sample": per_sample,
        "loss": per_sample.mean(),
        "grad_student_logits": 2 * (q - p) / 5,
    }
    inputs = {"student_logits": student, "teacher_logits": teacher}
    np.savez(tmp_path / "kd_2.npz", hp='{"temperature": 2.0}', **inputs, **outputs)
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("stem", "name"),
    [("kd_2", "kd"), ("amtml_hint-b", "amtml_hint"), ("amtml_2", "amtml"), ("camkd", None)],
)
def test_a_case_is_known_by_the_longest_prefix(stem: str, name: str | None) -> None:
    assert check_name(stem) == name
