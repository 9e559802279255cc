"""Files find their place on a cluster, and ``run.py`` the package that it was copied from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distill.loading import load_experiment
from distill.storage import cache_folder, own_cache, runs_folder
from orchestrator.network import interface_of
from orchestrator.preparation import store_mirror, store_root

RUN = Path(__file__).resolve().parent.parent / "distill" / "run.py"


def test_everything_that_nodes_share_goes_to_the_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TUTELAGE_CACHE", raising=False)
    assert runs_folder() == Path("runs")
    assert cache_folder() == own_cache()
    monkeypatch.setenv("TUTELAGE_STORAGE", str(tmp_path))
    experiment = load_experiment("demo")
    assert experiment.output.root == tmp_path / "runs"
    assert store_root(experiment) == str(tmp_path / "cache" / "signals")
    remote = load_experiment("demo", ["signals.root=memory://x"])
    mirror = store_mirror(remote)
    assert mirror is not None
    assert not mirror.root.is_relative_to(tmp_path)  # copies that nodes share save no reading


def test_the_cache_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_STORAGE", str(tmp_path / "shared"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "fast"))
    assert cache_folder() == tmp_path / "fast"
    assert runs_folder() == tmp_path / "shared" / "runs"


def copied(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What ``ray submit`` does with ``run.py``: copy the one file, and run it there."""
    shutil.copy(RUN, folder / "run.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *options, "run.py", "show", "demo"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_settings_name_one_place_for_processes_that_begin_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    own = "{name: image_folder, image_size: 32, root: photos, cache_dir: ~/cache}"
    experiment = load_experiment("demo", [f"data={own}", "output.root=~/out", "signals.root=~/s"])
    assert experiment.data.root == tmp_path / "photos"
    assert experiment.data.cache_dir == Path("/home/somebody/cache")
    assert experiment.output.root == Path("/home/somebody/out")
    assert experiment.signals.root == "/home/somebody/s"
    arrays = load_experiment("demo", ["data={name: arrays, file: a.npz}", "signals.root=s3://b/p"])
    assert arrays.data.file == tmp_path / "a.npz"
    assert arrays.signals.root == "s3://b/p"
    assert load_experiment("demo").signals.root == ""  # beside the cache


def test_a_copy_of_the_script_runs_the_installed_package(tmp_path: Path) -> None:
    done = copied(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("name: demo")


def test_a_copy_without_the_package_says_how_it_gets_there(tmp_path: Path) -> None:
    done = copied(tmp_path, "-S")  # without this environment's packages
    assert done.returncode == 2
    assert done.stderr.startswith("error: tutelage is not installed for ")
    assert "ray up cluster.yaml" in done.stderr


def test_the_interface_of_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("198.51.100.7") is None
