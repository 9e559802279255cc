"""Weights, stores and data of strangers: nothing runs, nothing is written outside, memory is bound.

Every refusal is one line that names the file.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from distill.learners import Learner
from distill.models.checkpoints import load_weights
from distill.models.inspection import inspect_checkpoint
from distill.plain_pickle import read_plain
from orchestrator.framing import frame
from orchestrator.parts import verify_part
from orchestrator.pipeline import FAILURES
from orchestrator.run_checkpoints import PROGRESS, next_epoch_of, restore, write_checkpoint
from orchestrator.students import StudentError
from tests.helpers import CPU, make_fit, tiny
from tests.hostile_files import (
    MEMO_BOMB,
    Program,
    forged_part,
    one_line,
    torch_file,
    write_lies,
)
from tests.networks import build

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where the programs in pickles write, if they run."""
    return tmp_path / "marker"


# Programs in pickles


def test_the_program_that_these_tests_hide_in_files_would_run(marker: Path) -> None:
    pickle.loads(pickle.dumps(Program(marker))).close()
    assert marker.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors", "a.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_program_in_a_checkpoint_does_not_run(
    name: str, zipped: bool, marker: Path, tmp_path: Path
) -> None:
    state = {"model": build("cnn_xs").state_dict(), "args": Program(marker)}
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"cannot be loaded: it asks for .*open, which") as error:
        load_weights(build("cnn_xs"), tmp_path / name)
    assert "save the state dict alone" in one_line(error, tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_bare_pickle_is_no_checkpoint(name: str, marker: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Program(marker)))
    with pytest.raises(ValueError, match="is not a checkpoint: neither safetensors nor") as error:
        inspect_checkpoint(tmp_path / name)
    one_line(error, tmp_path / name)
    assert not marker.exists()


def written(fashion: Path, path: Path, **changes: object) -> Learner:
    """A learner whose state lies in a run's checkpoint, changed as told."""
    _, learner = make_fit(tiny(fashion))
    state = dict.fromkeys(PROGRESS, 0) | {"best": 0.5, "learner": learner.state_dict()}
    write_checkpoint(path, state | changes)
    return learner


def test_a_program_in_a_runs_checkpoint_does_not_run(
    fashion: Path, marker: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    learner = written(fashion, path)
    assert restore(path, learner, device=CPU)["best"] == 0.5
    assert next_epoch_of(path) == 0
    written(fashion, path, best=Program(marker))
    for read in (lambda: restore(path, learner, device=CPU), lambda: next_epoch_of(path)):
        with pytest.raises(StudentError, match=r"no checkpoint of this run \(it asks") as error:
            read()
        assert f"delete the folder '{path.parent}'" in one_line(error, path)
    assert not marker.exists()
    assert StudentError in FAILURES  # ends a command with this line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_epoch": "1"}, "its start_epoch is 1"),
        ({"start_epoch": -1}, "its start_epoch is -1"),
        ({"best": None}, "its best is None"),
        ({"learner": {}}, "student"),
        ({"learner": {(1, 2): 3}}, "a key is a tuple"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(
    changes: dict[str, object], message: str, fashion: Path, tmp_path: Path
) -> None:
    learner = written(fashion, tmp_path / "last.pt", **changes)
    with pytest.raises(StudentError, match=rf"no checkpoint of this run \(.*{message}.*; delete"):
        restore(tmp_path / "last.pt", learner, device=CPU)


def test_a_checkpoint_is_not_written_through_a_link(fashion: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("last.pt", "last.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    written(fashion, tmp_path / "last.pt")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "last.pt").is_symlink()


def test_pyarrows_pickled_types_are_not_made(marker: Path, tmp_path: Path) -> None:
    """As in CVE-2023-47248: an extension type whose description was a pickle."""
    rows = np.zeros((4096, 20), np.uint8)
    part = forged_part(tmp_path / "part-00000.arrow", rows)
    kind = pa.binary(20)
    described = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Program(marker)),
    }
    schema = pa.schema([pa.field("rows", kind, metadata=described)], metadata={b"tutelage": b"{}"})
    body = schema.serialize().to_pybytes()
    head = frame(rows, "")[0]
    length = int.from_bytes(head[12:16], "little")
    forged = head[:8] + body + head[16 + length :]
    part.write_bytes(forged[:4096].ljust(4096, b"\0") + part.read_bytes()[4096:])
    assert "not a whole part" in str(verify_part(part))
    assert not marker.exists()


def test_a_plain_pickle_makes_only_what_the_table_has(marker: Path) -> None:
    read = read_plain(pickle.dumps([{"a": 1}, Program(marker), b"x", 0.5]), {})
    assert isinstance(read.value, list)
    assert (read.value[0], *read.value[2:]) == ({"a": 1}, b"x", 0.5)
    assert read.unknown == ("io.open",) or read.unknown == ("_io.open",)
    for wrong in (b"", b"\x80\x04", b"\x80\x02\x81.", b"]]ee.", pickle.dumps({(1, 2): 3})):
        with pytest.raises(ValueError, match=r"\w"):
            read_plain(wrong, {})
    assert not marker.exists()


def test_a_torch_file_whose_members_share_bytes_is_refused(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", MEMO_BOMB)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", b"")
    with pytest.raises(ValueError, match=r"a\.pt' is damaged: it holds more than there is in it"):
        inspect_checkpoint(path)


# Sizes that are announced and not there


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was said of each file by a process with 200 MB to spare."""
    folder = tmp_path_factory.mktemp("lies")
    write_lies(folder)
    command = [sys.executable, "-m", "tests.little_memory", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(folder.rglob("*.arrow.damaged-*")) == []
    return json.loads(done.stdout)


LIES = {
    "weights-length.safetensors": "is not a checkpoint",
    "weights-nested.safetensors": "is damaged or cut short: maximum recursion depth",
    "weights-product.safetensors": "4 bytes, which do not fit its shape",
    "weights-size.safetensors": "has no valid shape",
    "weights-memo.pt": "holds no state dict",
    "weights-bytes.pt": "it makes bytes of a number's length",
    "weights-storage.pt": "tensor '0' is said to be larger than it is",
    "weights-hash.pt": "a key is a tuple",
    "weights-bomb.pt": "is compressed; save it anew with torch.save",
    "weights-sparse.pt": "is damaged or cut short",
    "idx-bomb.gz": "unpacks to more than 67,108,864 bytes",
    "arrays-shape.npz": "train_images is said to be uint8 [1125899906842624, 6, 6], and has",
    "arrays-header.npz": "train_images is no array of numpy's",
    "arrays-label.npz": "there are at most 100,000 classes",
    "arrays-bomb.npz": "more than 100 times its size",
    "image-thin.png": "its sides, 1 and 60000 pixels, differ too much",
    "image-large.png": "10000 × 10000 pixels are too many",
    "cifar": "labels is not one label in 0..9",
    "cifar-memo": "accepted",
    "cifar-shape": "is not a CIFAR batch",
    "yaml-aliases.yaml": "it stands for more than 100,000 values",
    "yaml-merges.yaml": "it stands for more than 100,000 values",
    "yaml-nested.yaml": "its values are nested too deeply",
    "yaml-long.yaml": "it has more than 1,048,576 characters",
    "part-rows.arrow": "but its rows end at",
    "part-shape.arrow": "its checksum is",
    "part-schema.arrow": "it has an Arrow message of 2147483647 bytes at byte 8",
    "part-batch.arrow": "it has an Arrow message of 2147483647 bytes",
    "part-footer.arrow": "do not end with the footer of its rows",
    "part-sparse.arrow": "it has no Arrow message at byte 8",
    "store-samples": "and 100000 are the most",
    "store-nested": "identity.json: holds no identity (maximum recursion depth",
    "store-kinds": "identity.num_samples: not of type int",
    "store-sparse": "it has more than 1,048,576 bytes",
}


@pytest.mark.parametrize("name", LIES)
def test_a_size_that_is_a_lie_is_named_and_nothing_made_for_it(
    name: str, said: dict[str, str]
) -> None:
    assert LIES[name] in said[name]
    assert name in said[name] or said[name] == "accepted"
    assert "\n" not in said[name]


def test_every_lie_was_told(said: dict[str, str]) -> None:
    assert said.keys() == LIES.keys()
