"""Locks, leases and listings of strangers: none binds for ever, and none leads outside."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from orchestrator.consumers import LocalConsumers, RemoteConsumers
from orchestrator.inventory import list_recordings
from orchestrator.layout import StoreError
from orchestrator.locks import FolderLock, LeaseLock
from orchestrator.mirror import Mirror
from orchestrator.remote import MAX_SMALL_BYTES, Remote, RemoteError
from orchestrator.store import SignalStore
from tests.helpers import files_below
from tests.hostile_files import nested, one_line
from tests.test_store import IDENTITY, logits_column, record

NESTED = nested(100_000).decode()


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL of the test's own, in this process's memory."""
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    store = fsspec.filesystem("memory").store
    for path in [path for path in store if path.startswith(name)]:
        del store[path]


# Locks and leases


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file_is_named_and_nothing_written(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    path = tmp_path / "store" / "recording.lock"
    path.parent.mkdir()
    make = {"link": lambda: path.symlink_to(tmp_path / "mine"), "folder": path.mkdir}
    make.get(kind, lambda: os.mkfifo(path))()
    for use in (FolderLock(path.parent).acquire, FolderLock(path.parent).holder):
        with pytest.raises(StoreError, match=r"recording.lock: cannot be a lock .*; delete it"):
            use()
    assert (tmp_path / "mine").read_text() == "mine"


STRANGE = ["", "5", "[]", "null", NESTED, '{"pid": "\\u001b[2J", "host": 1}', "\0\xff"]


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_lock_file_locks_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "recording.lock").write_text(text)
    assert FolderLock(tmp_path).holder() is None
    with (tmp_path / "recording.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert FolderLock(tmp_path).holder() == "another process"
    with FolderLock(tmp_path) as lock:
        assert lock.acquire()


@pytest.mark.parametrize(
    "text", [*STRANGE, '{"expires_s": 1e300}', '{"expires_s": Infinity}', '{"expires_s": NaN}']
)
def test_a_strange_lease_binds_nobody(text: str, memory: str) -> None:
    remote = Remote(memory)
    remote.write("key/recording.lease", text.encode())
    lock = LeaseLock(remote, "key")
    assert lock.holder() is None
    assert lock.acquire()
    lock.release()


def test_an_empty_lease_at_s3_binds_nobody(url: str) -> None:
    Remote(url).write("key/recording.lease", b"")
    lock = LeaseLock(Remote(url), "key")
    assert lock.acquire()
    lock.release()


def test_a_lease_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "key" / "recording.lease"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RemoteError, match=r"has more than 1,048,576 bytes, .* delete it") as error:
        LeaseLock(Remote(f"file://{tmp_path}"), "key").acquire()
    one_line(error, path)


def test_who_holds_a_lease_is_said_in_plain_words(memory: str) -> None:
    lease = {"pid": 7, "host": "\x1b]0;x\x07\nerror: no", "expires_s": time.time() + 30}
    Remote(memory).write("key/recording.lease", json.dumps(lease).encode())
    assert LeaseLock(Remote(memory), "key").holder() == "another process"


@pytest.mark.parametrize(
    ("text", "needed"), [("[1, [2], 3]", {1, 3}), (NESTED, set()), ("{}", set()), ("[", set())]
)
def test_a_strange_declaration_needs_nothing(text: str, needed: set[int], tmp_path: Path) -> None:
    folder = tmp_path / "consumers"
    folder.mkdir()
    (folder / f"{'a' * 32}.json").write_text(text)
    with (folder / f"{'a' * 32}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert LocalConsumers(tmp_path).needs_of_others() == needed
    assert LocalConsumers(tmp_path).needs_of_others() == set()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("passes", [5, "12", [[1]], {"1": 2}])
def test_a_strange_declaration_at_a_url_needs_nothing(passes: object, memory: str) -> None:
    remote = Remote(memory)
    lease = {"expires_s": time.time() + 30, "passes": passes}
    remote.write(f"key/consumers/{'a' * 32}.json", json.dumps(lease).encode())
    remote.write("key/consumers/mine.json", b"{}")
    consumers = RemoteConsumers(remote, "key")
    assert consumers.needs_of_others() == set()
    assert consumers.is_anybody()
    assert remote.exists("key/consumers/mine.json")


# Mirrors


def test_what_a_listing_names_is_not_written_outside_the_mirror(
    memory: str, tmp_path: Path
) -> None:
    writer = SignalStore(Mirror(memory, tmp_path / "a"), IDENTITY)
    record(replace(logits_column(tmp_path / "x"), store=writer))
    store = fsspec.filesystem("memory").store
    part = next(path for path in store if path.endswith("part-00000.arrow"))
    for name in (
        "../../../../../../escaped",
        "/escaped",
        "part-00000.arrow\0",
        "part-9.arrow/../x",
    ):
        store[f"{part.rpartition('/')[0]}/{name}"] = store[part]
    before = files_below(tmp_path, "*")
    reader = SignalStore(Mirror(memory, tmp_path / "b"), IDENTITY)
    column = replace(logits_column(tmp_path / "x"), store=reader)
    assert column.open_pass(0).shape == (IDENTITY.num_samples, 20)
    assert column.passes() == [0]
    new = files_below(tmp_path, "*").keys() - before.keys()
    assert {Path(name).name for name in new} == {
        ".lock",
        *(f"part-0000{i}.arrow" for i in range(3)),
    }
    assert all(name.startswith("b/") for name in new)


def test_an_identity_of_a_gigabyte_at_a_url_is_not_read(memory: str, tmp_path: Path) -> None:
    remote = Remote(memory)
    remote.write(f"{IDENTITY.key}/identity.json", b" " * (MAX_SMALL_BYTES + 1))
    with pytest.raises(RemoteError, match=r"identity.json: has more than .* delete it"):
        list_recordings(Mirror(memory, tmp_path))
