"""What a recorder does beside students, seen without actors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import ray

from orchestrator import recording, store
from orchestrator.fleet import Fleet
from orchestrator.parts import verify_part
from orchestrator.recording import Recorder, RecordingReport, Serving
from orchestrator.teachers import PartJob, input_plan
from orchestrator.waiting import have_no_place
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
        self.stalled: list[list[str]] = []

    def on_wait(self, holder: str) -> None:
        self.holders.append(holder)

    def on_start(self, report: RecordingReport) -> None: ...

    def on_stall(self, teachers: Sequence[str]) -> None:
        self.stalled.append(list(teachers))

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
    return Recorder([serving], cast("Fleet", Nobody()), passes, heard)


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


class Mute:
    """An actor that never answers, and a fleet of it."""

    def __init__(self) -> None:
        self.record = self

    def remote(self, _: PartJob) -> object:
        return object()

    def actors(self, *_: Any) -> list[Any]:
        return [self]


@pytest.mark.parametrize("has_place", [False, True])
def test_it_is_told_once_that_teachers_wait_for_a_place(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, has_place: bool
) -> None:
    """One that has a place may work for long."""
    monkeypatch.setattr(recording, "STALL_S", 0.1)
    monkeypatch.setattr(recording, "have_no_place", lambda _: not has_place)
    monkeypatch.setattr(ray, "wait", lambda tasks, **_: (time.sleep(0.01), ([], tasks))[1])
    heard = Heard()
    beside = Recorder([serving], cast("Fleet", Mute()), [3], heard)
    beside.start()
    time.sleep(0.5)
    beside.finish()
    assert heard.stalled == ([] if has_place else [["a"]])


@pytest.mark.ray
def test_an_actor_that_no_node_holds_has_no_place() -> None:
    @ray.remote
    class Actor:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

    kind: Any = Actor
    wide, slim = kind.options(num_cpus=3).remote(), kind.options(num_cpus=1).remote()  # of two
    assert ray.get(slim.node.remote(), timeout=120)
    assert have_no_place([wide])
    assert not have_no_place([wide, slim])
    ray.kill(wide)
    ray.kill(slim)
