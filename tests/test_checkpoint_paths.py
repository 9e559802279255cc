"""Where a teacher's weights lie, by what its ``checkpoint`` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import AUTO, Teacher
from orchestrator.teacher_checks import checkpoint_path


def test_where_weights_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def path(checkpoint: str) -> Path | None:
        return checkpoint_path(Teacher(arch="cnn_m", checkpoint=checkpoint))

    monkeypatch.setenv("HOME", str(tmp_path))
    assert path(AUTO) is None
    assert path("a/b.pt") == Path("a/b.pt")
    assert path("~/b.pt") == tmp_path / "b.pt"
    assert str(path("embedded/cnn_m")).endswith("/distill/weights/cnn_m.safetensors")
