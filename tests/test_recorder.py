"""What a recorder does beside students, seen without actors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator import store
from orchestrator.parts import verify_part
from orchestrator.pipeline import input_plan
from orchestrator.recording import Recorder, RecordingReport, Serving
from tests.helpers import prepare, record_here, two_teachers


class Nobody:
    """A fleet that has no place for any actor."""

    def actors(self, *_: Any) -> list[Any]:
        return []

    def release(self, key: str) -> None: ...


class Heard:
    """Remembers what a recorder tells."""

    def __init__(self) -> None:
        self.holders: list[str] = []

    def on_wait(self, holder: str) -> None:
        self.holders.append(holder)

    def on_start(self, report: RecordingReport) -> None: ...

    def on_restart(self, teacher: str, process: str) -> None: ...

    def on_part(self, report: RecordingReport) -> None: ...


@pytest.fixture
def serving(fashion: Path, tmp_path: Path) -> Serving:
    """A teacher with three passes on disk."""
    experiment = two_teachers(fashion, tmp_path)
    serving = prepare(experiment)[0].serving
    record_here(serving, input_plan(experiment), range(3))
    return serving


def recorder(serving: Serving, heard: Heard, passes: Sequence[int] = range(3)) -> Recorder:
    fleet: Any = Nobody()
    return Recorder([serving], fleet, passes, heard)


def test_what_is_damaged_is_set_aside_before_a_student_can_read_it(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = tmp_path.rglob("pass-00001/*.arrow")
    content = bytearray(part.read_bytes())
    content[-5000] ^= 1
    part.write_bytes(content)
    monkeypatch.setattr(store, "verify_part", lambda path: (time.sleep(0.3), verify_part(path))[1])
    beside = recorder(serving, Heard())
    beside.start()
    is_readable = part.exists()
    beside.finish()
    assert not is_readable
    assert len(list(part.parent.glob("*.damaged-*"))) == 1


def test_students_begin_beside_another_process_that_records(serving: Serving) -> None:
    heard = Heard()
    beside = recorder(serving, heard)
    with serving.recording.lock:
        beside.start()
        assert len(heard.holders) == 1
        beside.finish()


def test_students_begin_when_recording_fails(serving: Serving) -> None:
    """They wait for nobody then, and the recorder's error is raised."""
    beside = recorder(serving, Heard(), passes=[-1])
    beside.start()
    beside.finish()
    assert isinstance(beside.error, ValueError)
