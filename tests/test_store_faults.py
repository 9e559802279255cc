"""The record store when processes die, disks fill up and several record at once."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.signals import SignalSpec
from orchestrator.codecs import make_codec
from orchestrator.inventory import list_recordings, remove
from orchestrator.locks import FolderLock
from orchestrator.store import PartId, SignalStore
from tests.test_store import IDENTITY, logits_column, record

REPOSITORY = Path(__file__).parents[1]

WRITER = """
import sys
from pathlib import Path
import numpy as np
from distill.signals import SignalSpec
from orchestrator.codecs import make_codec
from orchestrator.store import PartId, SignalStore
from tests.test_store import IDENTITY
store = SignalStore(Path(sys.argv[1]), IDENTITY)
column = store.column(SignalSpec("stage3"), make_codec("float32", (1500,)))
for attempt in range(400):
    column.remove_pass(attempt % 4)
    column.write(PartId(attempt % 4, 0), np.zeros((4096, 6000), np.uint8), error=0.0)
"""


def test_a_writer_killed_in_mid_write_leaves_no_visible_part(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY) as writer:
        half: list[Path] = []
        while not half and writer.poll() is None:
            time.sleep(0.002)
            writer.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WEXITED)
            half = list(tmp_path.rglob(".part-*.tmp"))
            writer.send_signal(signal.SIGKILL if half else signal.SIGCONT)
    store = SignalStore(tmp_path, IDENTITY)
    column = store.column(SignalSpec("stage3"), make_codec("float32", (1500,)))
    killed_in = int(half[0].parent.name.removeprefix("pass-"))
    assert PartId(killed_in, 0) in column.missing([killed_in])
    assert all(column.verify(index) == {} for index in range(4))
    assert store.remove_leftovers() == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_pass_that_is_still_mapped_over_nfs_is_gone_and_its_rest_is_left_for_later(
    tmp_path, monkeypatch
):
    column = logits_column(tmp_path)
    record(column)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        column.remove_pass(0)
    assert column.passes() == []
    assert column.store.remove_leftovers() == 1
    assert not list(tmp_path.rglob(".removed-*"))


def test_a_part_is_invisible_until_it_is_whole(tmp_path, monkeypatch):
    column = logits_column(tmp_path)
    seen: list[list[PartId]] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(column.missing([0])), sync(fd)))
    column.store.publish_identity()
    seen.clear()
    record(column)
    before_rename, after_rename = seen[0], seen[1]
    assert (PartId(0, 0) in before_rename, PartId(0, 0) in after_rename) == (True, False)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A megabyte of disk; where mounting is not allowed, files of at most a megabyte."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_with_the_bytes_needed_and_leaves_nothing(tmp_path):
    with small_disk(tmp_path / "disk"):
        column = SignalStore(tmp_path / "disk", IDENTITY).column(
            SignalSpec("stage3"), make_codec("float32", (100,))
        )
        rows = np.ones((4096, 400), np.uint8)
        with pytest.raises(OSError, match=r"part-00000.arrow: cannot write.* needs 164\d{4} bytes"):
            column.write(PartId(0, 0), rows, error=0.0)
        assert PartId(0, 0) in column.missing([0])
        assert not list(column.store.path.rglob("*.tmp"))
        assert column.bytes_on_disk() == 0


HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.locks import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_excludes_other_processes_and_dies_with_its_own(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        lock = FolderLock(tmp_path)
        assert not lock.acquire()
        assert f"process {other.pid} on host" in (lock.holder() or "")
        with pytest.raises(BlockingIOError, match=f"process {other.pid} on"), lock:
            pass
        other.kill()
    assert lock.holder() is None
    assert lock.acquire()
    assert f"process {os.getpid()} on" in (FolderLock(tmp_path).holder() or "")
    lock.release()


def test_the_lock_excludes_other_threads_objects_and_can_be_taken_again(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    with first:
        assert first.acquire()
        assert not second.acquire()
    assert second.acquire()
    second.release()


def test_recordings_are_listed_with_their_whole_passes(tmp_path):
    column = logits_column(tmp_path / "store")
    record(column)
    root = column.store.root
    record(column, 4)
    record(logits_column(root, codec="top3"))
    column.part_path(PartId(4, 1)).unlink()
    other = replace(IDENTITY, plan_seed=8)
    record(logits_column(root, other))
    (root / "notes").mkdir()
    (column.path / "pass-x").mkdir()
    listed = {summary.key: summary for summary in list_recordings(root)}
    assert set(listed) == {IDENTITY.key, other.key}
    ours = listed[IDENTITY.key]
    assert ours.identity == IDENTITY
    assert [(str(c.spec), c.codec, c.passes) for c in ours.columns] == [
        ("logits", "float16", (0,)),
        ("logits", "top3-residual", (0,)),
    ]
    assert ours.num_bytes == column.store.bytes_on_disk() > sum(c.num_bytes for c in ours.columns)


def test_remove_deletes_one_teacher_and_refuses_unknown_or_busy_ones(tmp_path):
    column = logits_column(tmp_path / "store")
    record(column)
    root = column.store.root
    with pytest.raises(ValueError, match=rf"did you mean {IDENTITY.key}"):
        remove(root, IDENTITY.key[:-1] + "x")
    with pytest.raises(ValueError, match=r"no recording '\.\.'"):
        remove(root, "..")
    with FolderLock(column.store.path), pytest.raises(BlockingIOError):
        remove(root, IDENTITY.key)
    num_bytes = column.store.bytes_on_disk()
    assert remove(root, IDENTITY.key) >= num_bytes
    assert list(root.iterdir()) == []
