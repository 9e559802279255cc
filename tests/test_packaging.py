"""What ``pip install .`` installs works without the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what is installed, and nothing else of the project."""
    # From a copy: a build leaves files beside the sources, which a later build would pack again.
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("distill", "orchestrator", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, str(source)], check=True, cwd=folder, timeout=240)
    return folder


def run(site: Path, *arguments: str) -> str:
    """The installed command's output, run from a folder that is not the project's."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, str(site / "bin" / "tutelage"), *arguments]
    done = subprocess.run(
        command, cwd=site, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_console_command_knows_the_shipped_experiments(site: Path) -> None:
    assert "subcommands" in run(site, "--help")
    assert "embedded/resnet8" in run(site, "show", "demo")


@pytest.mark.parametrize(
    "path",
    [
        "distill/weights/accuracy.json",
        "distill/weights/resnet8.safetensors",
        "distill/data/fashion_mnist_mini.npz",
        "distill/data/NOTICE",
        "distill/experiments/demo.yaml",
        "search_spaces/__init__.py",
        "orchestrator/pipeline.py",
        "distill/py.typed",
        "orchestrator/py.typed",
        "search_spaces/py.typed",
    ],
)
def test_what_is_no_code_is_installed_too(site: Path, path: str) -> None:
    assert (site / path).stat().st_size == (ROOT / path).stat().st_size


def test_neither_tests_nor_benchmarks_are_installed(site: Path) -> None:
    assert not (site / "tests").exists()
    assert not (site / "benchmarks").exists()


def test_the_installed_code_is_what_runs(site: Path) -> None:
    code = "import distill; print(distill.__file__)"
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, cwd=site, env=environment, text=True)
    assert printed.startswith(str(site))
