"""Remote stores: recorded by one node, mirrored by others, on a real S3 server."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.signals import SignalSpec
from orchestrator.codecs import make_codec
from orchestrator.layout import tree_bytes
from orchestrator.mirror import Mirror
from orchestrator.remote import LISTING_S, Remote, RemoteError
from orchestrator.store import PartId, SignalStore
from tests.remote_stores import damage, name_of, node, remote_of, start
from tests.test_store import IDENTITY, LAST, VALUES, flip, logits_column, record

PARTS = IDENTITY.num_parts


@pytest.mark.parametrize("scheme", ["s3", "memory", "file"])
def test_what_one_node_records_another_reads(url, tmp_path, scheme):
    place = {"s3": url, "memory": f"memory://{url[5:]}", "file": f"file://{tmp_path}/remote"}
    record(node(place[scheme], tmp_path / "a"))
    local = logits_column(tmp_path / "local")
    record(local)
    there = node(place[scheme], tmp_path / "b")
    np.testing.assert_array_equal(there.open_pass(0), local.open_pass(0))
    remote = Remote(place[scheme])
    names = [name_of(there, PartId(0, index)) for index in range(PARTS)]
    assert [remote.read(name) for name in names] == [
        local.part_path(PartId(0, index)).read_bytes() for index in range(PARTS)
    ]
    assert there.bytes_on_disk() == local.bytes_on_disk()


def test_who_records_downloads_nothing_and_who_opened_once_neither(url, tmp_path, s3_server):
    writer, reader = node(url, tmp_path / "a"), node(url, tmp_path / "b")
    record(writer)
    writer.open_pass(0)
    assert s3_server.downloads() == []
    reader.open_pass(0)
    reader.open_pass(0)
    assert len(s3_server.downloads()) == PARTS


READER = """
import sys, time
from pathlib import Path
from orchestrator.remote import Remote
from tests.remote_stores import node
get = Remote.get
Remote.get = lambda *arguments: (time.sleep(0.5), get(*arguments))  # a slow network
column = node(sys.argv[1], Path(sys.argv[2]))
assert column.is_complete(0)
print("ready", flush=True)
sys.stdin.readline()
print(int(column.open_pass(0).sum(dtype="int64")), flush=True)
"""


def test_processes_that_open_a_pass_at_once_download_each_part_once(url, tmp_path, s3_server):
    record(node(url, tmp_path / "a"))
    readers = [start(READER, url, tmp_path / "b") for _ in range(2)]
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
    sums = [int(reader.communicate(timeout=60)[0]) for reader in readers]
    assert sums == [node(url, tmp_path / "a").open_pass(0).sum(dtype="int64")] * 2
    assert len(s3_server.downloads()) == PARTS


def test_a_bound_evicts_the_pass_opened_longest_ago_and_no_open_one(url, tmp_path):
    writer = node(url, tmp_path / "a")
    for index in range(4):
        record(writer, index)
    size = tree_bytes(writer.path / "pass-00000")
    reader = node(url, tmp_path / "b", 3 * size)
    kept = reader.open_pass(0)
    for index in (1, 2, 1, 3):
        reader.open_pass(index)
    assert sorted(path.name for path in reader.path.glob("pass-*")) == [
        "pass-00000",  # open
        "pass-00001",
        "pass-00003",
    ]
    del kept
    reader.open_pass(2)
    assert not (reader.path / "pass-00000").exists()


def test_a_bound_also_holds_while_recording(url, tmp_path):
    writer = node(url, tmp_path / "a")
    record(writer, 0)
    size = tree_bytes(writer.path / "pass-00000")
    bounded = node(url, tmp_path / "b", size + 1)
    record(bounded, 1)
    record(bounded, 2)
    assert [path.name for path in bounded.path.glob("pass-*")] == ["pass-00002"]
    assert bounded.is_complete(1)


def test_a_bound_too_small_for_what_is_open_says_how_much_is_needed(url, tmp_path):
    writer = node(url, tmp_path / "a")
    for index in range(2):
        record(writer, index)
    size = tree_bytes(writer.path / "pass-00000")
    with pytest.raises(ValueError, match=rf"signals.mirror_bytes: {size - 1} .* need {size} bytes"):
        node(url, tmp_path / "b", size - 1).open_pass(0)
    reader = node(url, tmp_path / "b", size)
    rows = reader.open_pass(0)
    with pytest.raises(ValueError, match=rf"need {2 * size} bytes"):
        reader.open_pass(1)
    del rows
    assert reader.open_pass(1).shape == (IDENTITY.num_samples, 20)


def test_a_slice_of_an_open_pass_holds_it(url, tmp_path):
    record(node(url, tmp_path / "a"))
    record(node(url, tmp_path / "a"), 1)
    size = tree_bytes(node(url, tmp_path / "a").path / "pass-00000")
    reader = node(url, tmp_path / "b", size)
    few = reader.open_pass(0)[5:9]
    with pytest.raises(ValueError, match="mirror_bytes"):
        reader.open_pass(1)
    del few
    reader.open_pass(1)


def test_a_download_that_is_killed_leaves_no_visible_part(url, tmp_path):
    column = SignalStore(Mirror(url, tmp_path / "a"), IDENTITY).column(
        SignalSpec("stage3"), make_codec("float32", (2500,))
    )
    column.write(PartId(0, 0), np.zeros((4096, 10_000), np.uint8), error=0.0)
    code = (
        "import sys; from pathlib import Path; from orchestrator.mirror import Mirror\n"
        "mirror = Mirror(sys.argv[1], Path(sys.argv[2])); path = mirror.root / sys.argv[3]\n"
        "print('ready', flush=True)\n"
        "with mirror.opening(path.parent, [path.name]): pass"
    )
    reader = start(code, url, tmp_path / "b", name_of(column, PartId(0, 0)))
    half: list[Path] = []
    while not half and reader.poll() is None:
        half = list(tmp_path.glob("b/.drafts/*"))
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    assert half
    assert half[0].exists()
    assert list((tmp_path / "b").rglob("*.arrow")) == []
    other = replace(column, store=SignalStore(Mirror(url, tmp_path / "b"), IDENTITY))
    rows, _ = other.open_part(PartId(0, 0))
    assert rows.shape == (4096, 10_000)
    assert not half[0].exists()


def test_damage_on_the_way_is_mended_by_fetching_again(url, tmp_path, monkeypatch, s3_server):
    record(node(url, tmp_path / "a"))
    get, hit = Remote.get, threading.Event()

    def get_badly(remote: Remote, name: str, path: Path) -> None:
        get(remote, name, path)
        if not hit.is_set():
            hit.set()
            flip(path, 5000)

    monkeypatch.setattr(Remote, "get", get_badly)
    expected = node(url, tmp_path / "a").open_pass(0)
    np.testing.assert_array_equal(node(url, tmp_path / "b").open_pass(0), expected)
    assert len(s3_server.downloads()) == PARTS + 1


def test_a_damaged_object_is_named_moved_aside_and_recorded_anew(url, tmp_path):
    record(node(url, tmp_path / "a"))
    reader = node(url, tmp_path / "b")
    damage(reader, LAST, tmp_path)
    named = rf"{url}/.*/pass-00000/part-00002.arrow: damaged, .* its checksum is \w+, .* `verify"
    with pytest.raises(ValueError, match=named.replace("`verify", ".*verify")):
        reader.open_pass(0)
    assert list(reader.verify(0)) == [LAST]
    message = reader.quarantine(LAST)
    assert f"{url}/{name_of(reader, LAST)}: damaged, moved aside as" in message
    assert reader.missing([0]) == [LAST]
    assert any("part-00002.arrow.damaged-" in name for name in remote_of(reader).list())
    record(reader)
    assert reader.verify(0) == {}
    assert reader.open_pass(0).shape == (IDENTITY.num_samples, 20)


def test_verify_finds_damage_at_the_place_of_record_and_drops_damaged_copies(url, tmp_path):
    column = node(url, tmp_path / "a")
    record(column)
    damage(column, PartId(0, 1), tmp_path)
    flip(column.part_path(PartId(0, 0)), 5000)
    assert list(column.verify(0)) == [PartId(0, 1)]
    assert not column.part_path(PartId(0, 0)).exists()


def test_a_removed_pass_is_missing_everywhere_and_what_is_open_stays_readable(url, tmp_path):
    here, there = node(url, tmp_path / "a"), node(url, tmp_path / "b")
    record(here)
    assert there.passes() == [0]
    rows = here.open_pass(0)
    before = rows.copy()
    there.remove_pass(0)
    np.testing.assert_array_equal(rows, before)
    assert here.passes() == []
    assert len(here.missing([0])) == PARTS


def test_a_mirror_drops_what_was_deleted_elsewhere_unless_it_is_open(url, tmp_path):
    writer, reader = node(url, tmp_path / "a"), node(url, tmp_path / "b")
    for index in range(4):
        record(writer, index)
    kept = reader.open_pass(0)
    reader.open_pass(1)
    for index in (0, 1):
        writer.remove_pass(index)
    time.sleep(LISTING_S)
    reader.open_pass(2)
    assert sorted(path.name for path in reader.path.glob("pass-*")) == ["pass-00000", "pass-00002"]
    del kept
    reader.open_pass(3)
    assert not (reader.path / "pass-00000").exists()


def test_a_part_that_was_not_uploaded_is_missing(url, tmp_path, monkeypatch):
    column = node(url, tmp_path / "a")

    def fail(*_: object) -> None:
        raise RemoteError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", fail)
        with pytest.raises(RemoteError, match="the network is down"):
            record(column)
    assert len(column.missing([0])) == PARTS
    record(column)
    assert column.is_complete(0)


def test_values_are_the_recorded_ones(url, tmp_path):
    record(node(url, tmp_path / "a"))
    column = node(url, tmp_path / "b")
    indices = np.random.default_rng(0).integers(0, IDENTITY.num_samples, 100)
    batch = column.codec.decode(column.open_pass(0)[indices])
    np.testing.assert_array_equal(batch, VALUES[indices].astype(np.float16))
