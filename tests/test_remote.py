"""Locations on other machines: what they refuse, leases on them, and a whole experiment there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import requests
import yaml
from fsspec.registry import _registry

from distill.loading import ConfigError
from distill.run import main
from orchestrator import remote
from orchestrator.inventory import list_recordings, remove
from orchestrator.locks import LeaseLock
from orchestrator.mirror import Mirror
from orchestrator.missing import missing_jobs
from orchestrator.preflight import check
from orchestrator.remote import LISTING_S, Remote, RemoteError, check_remote
from orchestrator.teachers import input_plan
from tests.helpers import files_below, prepare, record_here, tiny, two_teachers
from tests.remote_stores import REPOSITORY, node, remote_of, start
from tests.test_store import IDENTITY, record


def test_what_other_nodes_put_is_seen_after_a_while_and_ones_own_at_once(url, monkeypatch):
    clock_s = 0.0
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: clock_s))
    here, there = Remote(url), Remote(url)
    assert here.list() == {}
    there.write("theirs", b"12")
    assert here.list() == {}  # as it was: who waits asks often
    clock_s += LISTING_S
    assert {name: info.num_bytes for name, info in here.list().items()} == {"theirs": 2}
    here.write("ours", b"1")
    assert set(here.list()) == {"ours", "theirs"}


def test_recordings_are_listed_and_removed_at_the_place_of_record(url, tmp_path):
    column = node(url, tmp_path / "a")
    record(column)
    root = Mirror(url, tmp_path / "b")
    (listed,) = list_recordings(root)
    assert (listed.key, listed.identity) == (IDENTITY.key, IDENTITY)
    assert [(str(c.spec), c.codec, c.passes) for c in listed.columns] == [
        ("logits", "float16", (0,))
    ]
    assert listed.num_bytes == column.store.bytes_on_disk() > column.bytes_on_disk()
    with column.store.lock, pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
        remove(root, IDENTITY.key)
    assert remove(root, IDENTITY.key) >= listed.num_bytes
    assert list_recordings(root) == []
    assert remote_of(column).list() == {}


HOLDER = """
import sys, time
from orchestrator.locks import LeaseLock
from orchestrator.remote import Remote
lock = LeaseLock(Remote(sys.argv[1]), "key", duration_s=2.0)
assert lock.acquire()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_lease_is_renewed_while_its_holder_lives_and_taken_over_after(url):
    holder = start(HOLDER, url)
    lock = LeaseLock(Remote(url), "key", duration_s=2.0)
    time.sleep(3)  # longer than a lease lasts
    assert not lock.acquire()
    assert f"process {holder.pid} on host" in (lock.holder() or "")
    holder.kill()
    holder.communicate()
    deadline = time.monotonic() + 20
    while not lock.acquire():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert f"process {os.getpid()} on host" in (lock.holder() or "")
    lock.release()
    assert lock.holder() is None


def test_a_lease_that_was_taken_over_is_left_alone(url):
    first, second = (LeaseLock(Remote(url), "key", duration_s=60) for _ in range(2))
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    Remote(url).write("key/recording.lease", json.dumps({"expires_s": 1.0}).encode())
    assert second.acquire()
    first.release()
    assert second.holder() is not None
    second.release()
    assert Remote(url).list() == {}


def test_wrong_locations_are_named_with_what_to_do(url, s3_server):
    with pytest.raises(RemoteError, match=r"s3://nobody/x: .* create the bucket, or correct"):
        check_remote("s3://nobody/x")
    with pytest.raises(ValueError, match=r"no 's4://'; did you mean s3://"):
        check_remote("s4://bucket/x")
    with pytest.raises(ValueError, match=r"names no bucket; write s3://BUCKET/PREFIX"):
        check_remote("s3://")
    auth = f"{s3_server.url}/moto-api/reset-auth"  # after so many requests keys must be right
    requests.post(auth, data=b"0", timeout=10)
    try:
        with pytest.raises(RemoteError, match=rf"{url}: cannot list: .*AWS_ACCESS_KEY_ID"):
            check_remote(url)
    finally:
        requests.post(auth, data=b"inf", timeout=10)
    check_remote(url)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'tutelage\[s3\]'"):
        Remote("s3://bucket/never-opened")


def test_records_at_a_url_are_listed_and_removed_from_the_command_line(url, tmp_path, capsys):
    record(node(url, tmp_path / "a"))
    assert main(["cache", "--list", "--root", url]) == 0
    listed = capsys.readouterr().out
    assert IDENTITY.key[:10] in listed
    assert url in listed.replace("\n", "")
    assert main(["cache", "--remove", IDENTITY.key[:6], "--root", url]) == 0
    assert Remote(url).list() == {}
    assert main(["cache", "--list", "--root", "s3://nobody/x"]) == 1
    assert "create the bucket" in capsys.readouterr().err


def test_verify_finds_a_damaged_part_at_a_url(url, fashion, tmp_path, capsys):
    changes = {"signals.root": url, "signals.mirror": str(tmp_path / "a"), "signals.passes": 1}
    experiment = two_teachers(fashion, tmp_path, changes)
    for teacher in prepare(experiment):
        record_here(teacher.serving, input_plan(experiment), [0])
    file = tmp_path / "remote.yaml"
    file.write_text(yaml.safe_dump(experiment.as_dict()))
    arguments = ["verify", str(file), "-s", f"signals.mirror={tmp_path / 'b'}"]
    assert main(arguments) == 0
    name = next(name for name in Remote(url).list() if name.endswith(".arrow"))
    content = Remote(url).read(name) or b""
    Remote(url).write(name, content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    assert main(arguments) == 1
    assert f"{url}/{name}: damaged, moved aside" in capsys.readouterr().out.replace("\n", "")
    jobs = [missing_jobs(t.serving.recording, [0])[0] for t in prepare(experiment)]
    assert [len(found) for found in jobs] in ([1, 0], [0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signals.mirror_bytes": 1}, "signals.mirror_bytes: .* set root to a URL"),
        ({"signals.mirror": "x"}, "signals.mirror: .* set root to a URL"),
        ({"signals.root": "s3://nobody/x"}, "signals.root: s3://nobody/x: .* create the bucket"),
        ({"signals.root": "s4://x/y"}, "signals.root: 's4://x/y': .* did you mean s3://"),
    ],
)
def test_a_wrong_location_is_a_mistake_before_any_work(s3_server, fashion, changes, message):
    with pytest.raises(ConfigError, match=message):
        check(tiny(fashion, changes))
    assert s3_server.url


@pytest.mark.ray
def test_training_that_meets_a_damaged_part_at_a_url_ends_with_one_line(
    url, fashion, tmp_path, capsys
):
    changes = {"signals.root": url, "signals.mirror": str(tmp_path / "a"), "schedule.epochs": 1}
    experiment = two_teachers(fashion, tmp_path, changes)
    for teacher in prepare(experiment):
        record_here(teacher.serving, input_plan(experiment), [0])
    name = next(name for name in Remote(url).list() if name.endswith(".arrow"))
    content = Remote(url).read(name) or b""
    Remote(url).write(name, content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    file = tmp_path / "remote.yaml"
    file.write_text(yaml.safe_dump(experiment.as_dict()))
    assert main(["train", str(file), "-s", f"signals.mirror={tmp_path / 'b'}"]) == 1
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text.startswith("error"))
    assert line.startswith(f"error: {url}/{name}: damaged, and again so: its checksum is")


@pytest.mark.slow
def test_an_experiment_records_the_same_bytes_at_a_remote_place(url, fashion, tmp_path):
    short = {"schedule.epochs": 2, "signals.passes": 2}
    there = short | {"signals.root": url, "signals.mirror": str(tmp_path / "mirror")}
    experiment, local = (
        two_teachers(fashion, tmp_path, there),
        two_teachers(fashion, tmp_path, short),
    )
    file = tmp_path / "remote.yaml"
    file.write_text(yaml.safe_dump(experiment.as_dict()))
    command = [sys.executable, "distill/run.py", "train", str(file)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=240)
    for teacher in prepare(local):
        record_here(teacher.serving, input_plan(local), range(2))
    expected = files_below(tmp_path / "signals", "*.arrow")
    recorded = [name for name in Remote(url).list() if name.endswith(".arrow")]
    assert {name: Remote(url).read(name) for name in recorded} == expected
    assert len(expected) == 4
    assert [name for name in Remote(url).list() if name.endswith(".lease")] == []
