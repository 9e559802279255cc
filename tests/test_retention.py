"""Passes are kept while somebody needs them, and deleted when everybody has left them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.codecs import make_codec
from orchestrator.pipeline import input_plan
from orchestrator.recording import Recording
from orchestrator.retention import CONSUMERS, Demand, Retention
from tests.helpers import prepare, record_here, two_teachers

OTHER_DRIVER = """
import fcntl, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / "other.lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX)
(folder / "other.json").write_text(sys.argv[2]); print("ready", flush=True); time.sleep(60)
"""


def demand(*next_epochs: int, num_epochs: int = 6, num_passes: int = 6) -> Demand:
    runs = {f"run {i}": epoch for i, epoch in enumerate(next_epochs)}
    return Demand(runs, num_epochs=num_epochs, num_passes=num_passes)


def kept(recording: Recording) -> list[int]:
    signal = recording.signals[0]
    column = recording.store.column(signal.spec, make_codec(signal.codec, signal.shape))
    return column.passes()


@pytest.fixture
def recording(fashion: Path, tmp_path: Path) -> Recording:
    """Three passes of one teacher, on disk."""
    experiment = two_teachers(fashion, tmp_path)
    serving = prepare(experiment)[0].serving
    record_here(serving, input_plan(experiment), range(3))
    return serving.recording


def test_passes_are_needed_in_the_order_of_epochs() -> None:
    assert demand(0).passes() == [0, 1, 2, 3, 4, 5]
    assert demand(4).passes() == [4, 5]
    assert demand(4, num_passes=3).passes() == [1, 2]
    assert demand(5, 3).passes() == [5, 3, 4]
    assert demand(6).passes() == []


def test_progress_and_failure_end_needs() -> None:
    needs = demand(0, 0)
    needs.epoch_done("run 0", 5)
    needs.failed("run 1")
    assert needs.passes() == [5]


def test_recording_may_be_so_many_epochs_ahead_of_the_run_that_trains() -> None:
    needs = demand(2, 0)
    assert needs.within(2) == {2, 3, 4}
    needs.epoch_done("run 0", 6)
    assert needs.within(1) == {0, 1}
    needs.epoch_done("run 1", 5)
    assert needs.within(3) == {5}


def test_a_sweep_deletes_what_is_left_behind_and_nothing_else(recording: Recording) -> None:
    needs = demand(0, num_epochs=3, num_passes=3)
    retention = Retention([recording], needs)
    retention.register()
    retention.sweep()
    assert kept(recording) == [0, 1, 2]
    needs.epoch_done("run 0", 2)
    retention.sweep()
    retention.release()
    assert kept(recording) == [2]
    assert not list((Path(recording.root) / recording.key / CONSUMERS).iterdir())


@pytest.mark.parametrize(("alive", "left"), [(True, [0, 2]), (False, [2])])
def test_another_drivers_needs_count_while_it_lives(
    recording: Recording, alive: bool, left: list[int]
) -> None:
    folder = Path(recording.root) / recording.key / CONSUMERS
    command = [sys.executable, "-c", OTHER_DRIVER, str(folder), "[0]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        if not alive:
            other.kill()
            other.wait()
        retention = Retention([recording], demand(2, num_epochs=3, num_passes=3))
        retention.register()
        retention.sweep()
        retention.release()
        other.kill()
    assert kept(recording) == left
