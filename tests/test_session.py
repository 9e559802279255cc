"""What sessions leave behind: nothing, and nothing for long where their process was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.session import scratch_folder

ROOT = Path(__file__).parents[1]
OWNER = """
import sys, time
from orchestrator.session import scratch_folder
with scratch_folder() as folder:
    (folder / "session_1" / "logs").mkdir(parents=True)
    (folder / "session_1" / "logs" / "raylet.out").write_text("log")
    print(folder, flush=True)
    time.sleep(120)
"""
AGENT = "import sys, time; log = open(sys.argv[1]); print('ready', flush=True); time.sleep(120)"
NAMED = "import time; print('ready', flush=True); time.sleep(120)"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files lie, of this process and of those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def start(code: str, *arguments: object) -> tuple[subprocess.Popen[str], str]:
    """A process, and the first line that it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def owner(scratch: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A live process with a folder, and the folder."""
    process, folder = start(OWNER)
    assert Path(folder).parent == scratch
    yield process, Path(folder)
    end(process)


def begin_and_end() -> None:
    with scratch_folder():
        pass


def test_a_session_leaves_no_folder(scratch: Path) -> None:
    with scratch_folder() as folder:
        (folder / "session_1").mkdir()
        (folder / "session_1" / "log").write_text("log")
        (folder / "latest").symlink_to(folder / "session_1")
        assert list(scratch.iterdir()) == [folder]
    assert list(scratch.iterdir()) == []


def test_a_killed_processs_folder_is_deleted_by_the_next_and_a_live_ones_never(
    owner: tuple[subprocess.Popen[str], Path], scratch: Path
) -> None:
    process, folder = owner
    begin_and_end()
    assert (folder / "session_1" / "logs" / "raylet.out").exists()
    end(process)
    begin_and_end()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("code", [AGENT, NAMED])  # has a file open; was only started with its name
def test_a_killed_processs_folder_stays_while_one_of_rays_uses_it(
    code: str, owner: tuple[subprocess.Popen[str], Path], scratch: Path
) -> None:
    process, folder = owner
    log = folder / "session_1" / "logs" / "raylet.out"
    agent, _ = start(code, log)
    end(process)
    begin_and_end()
    assert log.exists()
    end(agent)
    begin_and_end()
    assert list(scratch.iterdir()) == []


def test_what_is_not_ours_is_left_alone(scratch: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "owner.lock").touch()
    (scratch / "tutelage-other").mkdir()  # of another program, as a benchmark
    (scratch / "tutelage-other" / "file").touch()
    (scratch / "tutelage-link").symlink_to(elsewhere)
    (scratch / "tutelage-file").touch()
    begin_and_end()
    names = [path.name for path in scratch.iterdir()]
    assert sorted(names) == ["tutelage-file", "tutelage-link", "tutelage-other"]
    assert (scratch / "tutelage-other" / "file").exists()
    assert (elsewhere / "owner.lock").exists()


def test_another_users_folder_is_left_alone(
    owner: tuple[subprocess.Popen[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, folder = owner
    end(process)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    begin_and_end()
    assert folder.exists()


def test_what_is_written_while_it_is_deleted_is_deleted_later(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def late_log(path: Path, *, ignore_errors: bool) -> None:
        rmtree(path, ignore_errors=ignore_errors)
        (path / "logs").mkdir(parents=True)

    with scratch_folder() as folder, monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", late_log)
        with scratch_folder() as other:
            pass
        assert (other / "logs").exists()
    assert not folder.exists()
    begin_and_end()
    assert list(scratch.iterdir()) == []
