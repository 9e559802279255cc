"""Data, text and addresses of strangers: no program runs, and no pipe is waited for."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.datasets import DataConfig, describe, load_data
from distill.datasets.image_folder import decode
from distill.loading import ConfigError, load_experiment
from distill.probes import ProbeTable
from orchestrator.preflight import check
from tests.data_files import random_images, write_arrays, write_folder
from tests.hostile_files import Program, nested, one_line


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where the programs in pickles write, if they run."""
    return tmp_path / "marker"


# Arrays


@pytest.mark.parametrize("member", ["train_labels", "test_images", "class_names"])
def test_objects_in_arrays_are_not_unpickled(member: str, marker: Path, tmp_path: Path) -> None:
    file = write_arrays(tmp_path / "a.npz", **{member: np.array([Program(marker)] * 8)})
    with pytest.raises(ValueError, match=rf"data.file: .*: {member} (holds|is) (Python )?object"):
        load_data(DataConfig(name="arrays", file=file, cache_dir=tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_pickle_that_is_called_an_array_is_not_read(
    name: str, marker: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Program(marker)))
    with pytest.raises(ValueError, match=r"data.file: .* is not a whole .npz") as error:
        describe(DataConfig(name="arrays", file=tmp_path / name))
    one_line(error, tmp_path / name)
    assert not marker.exists()


def test_a_member_that_hides_behind_another_is_not_read(marker: Path, tmp_path: Path) -> None:
    file = write_arrays(tmp_path / "a.npz")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("train_images", pickle.dumps(Program(marker)))
    data = load_data(DataConfig(name="arrays", file=file, cache_dir=tmp_path / "cache"))
    assert data.train.images.shape == (40, 1, 6, 6)
    assert not marker.exists()


# Images


def test_no_image_is_handed_to_a_reader_that_runs_programs(tmp_path: Path) -> None:
    """Pillow reads EPS by running Ghostscript, whatever the file's name."""
    Image.fromarray(random_images(8, 8, 3)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"data\.root: .* \(cannot identify image") as error:
        decode(tmp_path / "a.png", size=8)
    one_line(error, tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["pipe", "broken link"])
def test_what_is_no_file_among_images_is_named(kind: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root")
    path = root / "train" / "cat" / "x.png"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/nowhere")
    config = DataConfig(name="image_folder", root=root, image_size=8, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"data.root: .*x\.png' is no file; repair or remove it"):
        load_data(config)


# Text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: !!python/object/apply:os.system [touch marker]", "could not determine a const"),
        ("seed: 2001-99-99", "month must be in 1..12"),
        ("a: &a [*a]", "nested too deeply"),
    ],
)
def test_yaml_makes_plain_values_alone(
    text: str, message: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"is not plain YAML: .*{message}") as error:
        load_experiment("x.yaml")
    one_line(error, tmp_path / "x.yaml")
    assert not marker.exists()


@pytest.mark.parametrize("text", [nested(200_000).decode(), '{"accuracy": {"\x1b[2J\\n": 3}}', ""])
def test_a_probe_table_that_is_none_is_named_on_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text(text)
    with pytest.raises(ValueError, match="holds no probe table") as error:
        ProbeTable.read(tmp_path / "probes.json")
    one_line(error, tmp_path / "probes.json")


@pytest.mark.parametrize("root", ["reference://::https://x/a.json", "zip://a::s3://b/c"])
def test_a_chain_of_locations_is_refused_before_any_is_opened(root: str) -> None:
    experiment = load_experiment("demo", [f"signals.root='{root}'"])
    with pytest.raises(ConfigError, match=r"signals.root: .* '::' chains locations; name one"):
        check(experiment)
