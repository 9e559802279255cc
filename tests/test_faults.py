"""What can go wrong while teachers record: processes die, disks fill, files rot or are mixed up.

Whatever happens, what was whole stays, and the finished store has the bytes of an undisturbed one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml

from distill.loading import load_experiment
from distill.run import main
from tests.fault_helpers import POLL_S, Commands, SmallDisk
from tests.helpers import files_below, tiny, write_noise, write_teacher

NUM_SAMPLES = 9000  # three parts a pass, the last one short
NUM_PARTS = 6  # of two passes
# Slow enough (half a second a part) to be hit in the middle of one.
ARCH = "resnet14"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher's weights, and the experiment that records it."""
    folder = tmp_path_factory.mktemp("faults")
    write_noise(folder / "data.npz", num_train=NUM_SAMPLES)
    teacher = {"name": "t", "arch": ARCH, "checkpoint": str(folder / "t.safetensors")}
    changes = {
        "data.validation": 0,
        "data.cache_dir": str(folder / "cache"),
        "teachers": [teacher],
        "method": "kd",
        "output.root": str(folder / "runs"),
    }
    experiment = tiny(folder / "data.npz", changes)
    write_teacher(folder / "t.safetensors", experiment, ARCH, seed=0)
    (folder / "exp.yaml").write_text(yaml.safe_dump(experiment.as_dict()))
    return folder


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    started = Commands(tmp_path)
    yield started
    started.close()


@pytest.fixture(scope="module")
def undisturbed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was recorded without any trouble."""
    folder = tmp_path_factory.mktemp("undisturbed")
    commands = Commands(folder)
    try:
        run = commands.run(*cache(home, folder / "store"))
    finally:
        commands.close()
    assert f"{NUM_PARTS} parts recorded, 0 kept" in run.text
    return folder / "store"


def cache(home: Path, store: Path, *changes: str) -> list[str]:
    """The arguments that record the experiment in ``store``."""
    options = [f"signals.root={store}", *changes]
    return ["cache", str(home / "exp.yaml"), *(f"-s{option}" for option in options)]


def parts(store: Path) -> dict[str, int]:
    """Every part there is and its file's number, which a part that is written anew changes."""
    return {str(path): path.stat().st_ino for path in store.rglob("*.arrow")}


def assert_finished_as(undisturbed: Path, store: Path) -> None:
    assert files_below(store, "*.arrow") == files_below(undisturbed, "*.arrow")
    assert not list(store.rglob("*.tmp"))


def test_an_actor_killed_in_a_part_is_replaced_and_the_recording_ends(
    home, undisturbed, commands, tmp_path
):
    store = tmp_path / "store"
    run = commands.start(*cache(home, store))
    run.until(lambda: len(parts(store)) > 1)  # the first is reported: its process is known
    (actor,) = run.actors()
    os.kill(actor, signal.SIGSTOP)
    before = parts(store)
    assert len(before) < NUM_PARTS  # it stands in the middle of one
    os.kill(actor, signal.SIGKILL)
    assert run.end() == 0
    assert f"process {actor} on " in run.text
    assert "died and was replaced; its parts were asked for again" in run.text
    assert f"{NUM_PARTS} parts recorded, 0 kept" in run.text
    assert before.items() <= parts(store).items()
    assert_finished_as(undisturbed, store)


def test_a_driver_killed_in_a_pass_is_resumed_by_the_same_command(
    home, undisturbed, commands, tmp_path
):
    store = tmp_path / "store"
    killed = commands.start(*cache(home, store))
    killed.until(lambda: parts(store))
    killed.die()
    before = parts(store)
    assert 0 < len(before) < NUM_PARTS
    run = commands.run(*cache(home, store))
    assert f"signals: {len(before)} parts are on disk and whole; kept" in run.text
    assert f"{NUM_PARTS - len(before)} parts recorded, {len(before)} kept" in run.text
    assert before.items() <= parts(store).items()
    assert_finished_as(undisturbed, store)


def test_two_drivers_at_once_record_no_part_twice(home, undisturbed, commands, tmp_path):
    store = tmp_path / "store"
    first = commands.start(*cache(home, store))
    first.until(lambda: parts(store))
    (actor,) = first.actors()
    os.kill(actor, signal.SIGSTOP)  # so that the second comes in the middle, on a busy machine too
    assert len(parts(store)) < NUM_PARTS
    second = commands.start(*cache(home, store))
    second.until(lambda: "records the same teachers; waiting for it" in second.text)
    first_seen = parts(store)
    os.kill(actor, signal.SIGCONT)
    while first.process.poll() is None:
        for path, number in parts(store).items():
            assert first_seen.setdefault(path, number) == number
        time.sleep(POLL_S)
    assert [first.end(), second.end()] == [0, 0]
    assert parts(store) == first_seen
    assert f"{NUM_PARTS} parts recorded, 0 kept" in first.text
    assert f"0 parts recorded, {NUM_PARTS} kept" in second.text
    assert_finished_as(undisturbed, store)


def test_a_full_disk_stops_the_recording_which_goes_on_when_there_is_room(
    home, undisturbed, commands, tmp_path
):
    with closing(SmallDisk(tmp_path / "disk")) as disk:
        store = disk.folder / "store"
        run = commands.start(*cache(home, store))
        run.until(lambda: parts(store))
        disk.fill(run)
        assert run.end() == 1
        assert "error: teacher 't' failed: " in run.text
        assert re.search(
            r"cannot write this part .*: it needs \d+ bytes and \d+ are free", run.text
        )
        assert "Traceback" not in run.text
        before = parts(store)
        assert 0 < len(before) < NUM_PARTS
        disk.grow()
        run = commands.run(*cache(home, store))
        assert f"{NUM_PARTS - len(before)} parts recorded, {len(before)} kept" in run.text
        assert before.items() <= parts(store).items()
        assert_finished_as(undisturbed, store)


def damage(kind: str, part: Path) -> str:
    """Damage a part; what will be said of it."""
    content = bytearray(part.read_bytes())
    if kind == "flipped":
        content[5000] ^= 1
        part.write_bytes(content)
        return "its checksum is"
    part.write_bytes(content[:-1000])
    return "not a whole part"


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["flipped", "truncated"])
def test_a_damaged_part_is_named_set_aside_and_recorded_anew(
    home, undisturbed, tmp_path, capsys, kind
):
    store = tmp_path / "store"
    shutil.copytree(undisturbed, store)
    before = parts(store)
    part = sorted(store.rglob("part-00001.arrow"))[1]
    reason = damage(kind, part)
    assert main(cache(home, store)) == 0
    shown = capsys.readouterr()
    assert f"{part}: damaged, moved aside as {part.name}.damaged-" in shown.err
    assert reason in shown.err
    assert f"1 parts recorded, {NUM_PARTS - 1} kept" in shown.out
    kept = parts(store).items() & before.items()
    assert dict(before.items() - kept) == {str(part): before[str(part)]}
    assert_finished_as(undisturbed, store)


def other_teacher(home: Path) -> str:
    experiment = load_experiment(str(home / "exp.yaml"))
    file = write_teacher(home / "other.safetensors", experiment, ARCH, seed=1)
    return f"teachers[0].checkpoint={file}"


def other_data(home: Path) -> str:
    with np.load(home / "data.npz") as content:
        arrays = dict(content)
    arrays["train_images"][0, 0, 0] ^= 1
    np.savez(home / "other.npz", **arrays)
    return f"data.file={home / 'other.npz'}"


def other_views(home: Path) -> str:  # noqa: ARG001
    return "views.padding=2"


@pytest.mark.ray
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_teacher, "weights_sha256: "),
        (other_data, "split: "),
        (other_views, "views.padding: "),
    ],
)
def test_records_of_something_else_are_kept_apart_and_refused(
    home, undisturbed, tmp_path, capsys, change, field
):
    store = tmp_path / "store"
    shutil.copytree(undisturbed, store)
    before = parts(store)
    assert main(cache(home, store, change(home), "signals.passes=1")) == 0
    assert f"{NUM_PARTS // 2} parts recorded, 0 kept" in capsys.readouterr().out
    assert before.items() <= parts(store).items()
    ours = Path(min(before))
    (theirs,) = set(store.glob(f"*/*/{ours.parent.name}/{ours.name}")) - {ours}
    shutil.copy(theirs, ours)
    assert main(cache(home, store)) == 0
    shown = capsys.readouterr()
    assert f"{ours}: damaged, moved aside as " in shown.err
    assert f"recorded for something else: teacher is '{theirs.parts[-4]}'" in shown.err
    assert field in shown.err
    assert f"1 parts recorded, {NUM_PARTS - 1} kept" in shown.out
    key = ours.parts[-4]
    assert files_below(store / key, "*.arrow") == files_below(undisturbed / key, "*.arrow")
