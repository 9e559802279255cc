"""What only teachers' shapes tell to be wrong, before anything is recorded: bounds and codecs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from distill.loading import ConfigError
from orchestrator.display import Display
from orchestrator.framing import BODY_OFFSET
from orchestrator.jobs import bytes_of_a_pass
from orchestrator.mirror import Mirror
from orchestrator.pipeline import check_mirror, run_experiment
from orchestrator.teachers import input_plan
from orchestrator.verification import columns_of
from tests.helpers import prepare, record_here, two_teachers


def test_a_mirror_too_small_for_what_a_run_opens_at_once_is_a_mistake(
    fashion: Path, tmp_path: Path
) -> None:
    """Two teachers, logits of 10 classes in float16: 20 bytes a sample."""
    signals = {"signals.root": "memory://mirrors", "signals.mirror": str(tmp_path / "mirror")}
    needed = 2 * (360 * 20 + 2 * BODY_OFFSET)
    for source, method, max_bytes, fits in (
        ("cached", "kd", needed - 1, False),
        ("cached", "kd", needed, True),
        ("cached", "ce", 1, True),
        ("local", "kd", 1, True),
    ):
        changes = {"signals.source": source, "method": method, "signals.mirror_bytes": max_bytes}
        wrong = two_teachers(fashion, tmp_path, signals | changes)
        if fits:
            check_mirror(wrong, prepare(wrong))
            continue
        message = rf"signals.mirror_bytes: {max_bytes} .* 'kd' reads {needed} bytes"
        with pytest.raises(ConfigError, match=message), Display(io.StringIO()) as display:
            run_experiment(wrong, display)
    assert not (tmp_path / "mirror").exists()


def test_a_mirror_of_the_bytes_asked_for_holds_what_is_open_at_once(
    url: str, fashion: Path, tmp_path: Path
) -> None:
    changes = {"signals.root": url, "signals.mirror": str(tmp_path / "a"), "signals.passes": 2}
    experiment = two_teachers(fashion, tmp_path, changes)
    servings = [teacher.serving for teacher in prepare(experiment)]
    for serving in servings:
        record_here(serving, input_plan(experiment), [0, 1])
    recordings = [serving.recording for serving in servings]
    mirror = Mirror(url, tmp_path / "b", bytes_of_a_pass(recordings))
    columns = [c for r in recordings for c in columns_of(replace(r, mirror=mirror)).values()]
    for index in (0, 1):
        rows = [column.open_pass(index) for column in columns]
        assert len(rows) == 2
        del rows


def test_a_codec_that_cannot_keep_a_signal_is_a_mistake(fashion: Path, tmp_path: Path) -> None:
    changes = {"method": "fitnet", "signals.codecs": {"stage2": "top10"}}
    wrong = two_teachers(fashion, tmp_path, changes)
    with pytest.raises(ConfigError, match=r"signals.codecs.stage2: codec top10.* use float16"):
        prepare(wrong)
