"""Passes are kept while somebody needs them, and deleted when everybody has left them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.consumers import CONSUMERS, Consumers, LocalConsumers, RemoteConsumers
from orchestrator.inventory import remove
from orchestrator.mirror import Mirror
from orchestrator.recording import Recording
from orchestrator.remote import LISTING_S, Remote
from orchestrator.retention import Demand, Retention, Watch
from orchestrator.store import Column
from orchestrator.students import EpochEvent, FailureEvent, StartEvent
from orchestrator.teachers import input_plan
from orchestrator.verification import columns_of
from tests.helpers import prepare, record_here, two_teachers
from tests.remote_stores import start

OTHER_DRIVER = """
import fcntl, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / "other.lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX)
(folder / "other.json").write_text(sys.argv[2]); print("ready", flush=True); time.sleep(60)
"""


def demand(*next_epochs: int, num_epochs: int = 6, num_passes: int = 6) -> Demand:
    runs = {f"run {i}": epoch for i, epoch in enumerate(next_epochs)}
    return Demand(runs, num_epochs=num_epochs, num_passes=num_passes)


def logits(recording: Recording) -> Column:
    (column,) = columns_of(recording).values()
    return column


def kept(recording: Recording) -> list[int]:
    return logits(recording).passes()


def copies(recording: Recording) -> list[str]:
    """The passes in this node's mirror."""
    return sorted(path.name for path in logits(recording).path.glob("pass-*"))


def recorded(fashion: Path, folder: Path, **changes: str) -> Recording:
    """Three passes of one teacher."""
    signals = {f"signals.{name}": value for name, value in changes.items()}
    experiment = two_teachers(fashion, folder, signals)
    serving = prepare(experiment)[0].serving
    record_here(serving, input_plan(experiment), range(3))
    return serving.recording


@pytest.fixture
def recording(fashion: Path, tmp_path: Path) -> Recording:
    return recorded(fashion, tmp_path)


@pytest.fixture
def distant(url: str, fashion: Path, tmp_path: Path) -> Recording:
    """At a URL, with a mirror on this node."""
    return recorded(fashion, tmp_path, root=url, mirror=str(tmp_path / "a"))


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


def test_a_start_says_how_far_a_run_is_too() -> None:
    """A worker may die between saving its last epoch and telling of it."""
    needs = demand(0, 0)
    watch = Watch(needs, None)
    watch.on_event(EpochEvent("run 0", 4, {}))
    watch.on_event(StartEvent("run 0", num_epochs=6, start_epoch=6))
    watch.on_event(FailureEvent("run 1", "diverged"))
    assert needs.passes() == []


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


READER = """
import sys, time
from orchestrator.consumers import RemoteConsumers
from orchestrator.remote import Remote
RemoteConsumers(Remote(sys.argv[1]), sys.argv[2], duration_s=2.0).declare([0])
print("ready", flush=True)
time.sleep(120)
"""


def test_a_reader_at_a_url_counts_while_it_lives_and_not_for_long_after(url, distant):
    reader = start(READER, url, distant.key)
    retention = Retention([distant], demand(2, num_epochs=3, num_passes=3))
    retention.register()
    time.sleep(3)  # longer than what it declared counts
    retention.sweep()
    assert kept(distant) == [0, 2]
    reader.kill()
    reader.communicate()
    deadline = time.monotonic() + 20
    while kept(distant) == [0, 2]:
        assert time.monotonic() < deadline
        retention.sweep()
    assert kept(distant) == [2]
    retention.release()


OTHER_MACHINE = """
import pickle, sys
from pathlib import Path
from orchestrator.retention import Demand, Retention, Watch
recording = pickle.loads(Path(sys.argv[1]).read_bytes())
needs = Demand({"run": 0}, num_epochs=3, num_passes=3)
retention = Retention([recording], needs)
retention.register()
print("ready", flush=True)
for line in sys.stdin:
    needs.epoch_done("run", int(line))
    retention.sweep()
    print("swept", flush=True)
retention.release()
"""


def test_the_slower_of_two_machines_keeps_its_passes_and_both_mirrors_drop_the_rest(
    url, distant, tmp_path
):
    there = replace(distant, mirror=Mirror(url, tmp_path / "b"))
    (tmp_path / "recording").write_bytes(pickle.dumps(there))
    other = start(OTHER_MACHINE, tmp_path / "recording")
    for index in range(3):
        logits(there).open_pass(index)
    ours = demand(0, num_epochs=3, num_passes=3)
    retention = Retention([distant], ours)
    retention.register()
    ours.epoch_done("run 0", 2)
    retention.sweep()
    assert kept(distant) == [0, 1, 2]
    assert other.stdin is not None
    assert other.stdout is not None
    print(1, file=other.stdin, flush=True)
    assert other.stdout.readline() == "swept\n"
    time.sleep(LISTING_S)
    assert kept(distant) == [1, 2]
    assert copies(there) == ["pass-00001", "pass-00002"]
    retention.sweep()
    assert copies(distant) == ["pass-00001", "pass-00002"]
    retention.release()
    other.communicate("3\n", timeout=60)
    time.sleep(LISTING_S)
    assert list(Remote(url).list(distant.key)) == [f"{distant.key}/identity.json"]


def test_what_is_read_anywhere_is_not_removed(url, distant, tmp_path):
    reader = start(READER, url, distant.key)
    with pytest.raises(BlockingIOError, match=f"{url}/{distant.key}: a process reads"):
        remove(Mirror(url, tmp_path / "b"), distant.key)
    reader.kill()
    reader.communicate()
    time.sleep(2.5)
    assert remove(Mirror(url, tmp_path / "b"), distant.key) > 0


@pytest.mark.parametrize("where", ["folder", "url"])
def test_nobody_begins_to_read_while_passes_are_deleted(where, url, tmp_path):
    def driver() -> Consumers:
        local = where == "folder"
        return LocalConsumers(tmp_path) if local else RemoteConsumers(Remote(url), "key")

    sweeper, reader = driver(), driver()
    declaring = threading.Thread(target=reader.declare, args=([7],), daemon=True)
    with sweeper.alone():
        declaring.start()
        declaring.join(1.0)
        assert declaring.is_alive()
        assert sweeper.needs_of_others() == set()
    declaring.join(30)
    with sweeper.alone():
        assert sweeper.needs_of_others() == {7}
    reader.declare([8])
    time.sleep(LISTING_S)
    assert sweeper.needs_of_others() == {8}
    assert reader.needs_of_others() == set()
    reader.withdraw()
    time.sleep(LISTING_S)
    assert not sweeper.is_anybody()
