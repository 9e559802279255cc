"""Commands that run as a user's do, watched closely enough to be hit at a chosen moment."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
LIMIT_S = 200.0  # a quiet machine needs a tenth
POLL_S = 0.01


@dataclass(frozen=True)
class Process:
    """One process; its start time tells it from a later one of the same number."""

    pid: int
    start: str

    @property
    def is_alive(self) -> bool:
        found = _stat(self.pid)
        return found is not None and found[1:] == (self.start, False)


def _stat(pid: int) -> tuple[int, str, bool] | None:
    """Parent, start time, and whether it is dead but not yet collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[19], fields[0] in "ZX"


def descendants(root: int) -> set[Process]:
    """Every process below ``root``, without it."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    stats = {pid: found for pid in pids if (found := _stat(pid))}
    found: set[Process] = set()
    level = {root}
    while level:
        level = {pid for pid, (parent, *_) in stats.items() if parent in level}
        found |= {Process(pid, stats[pid][1]) for pid in level}
    return found


@dataclass
class Run:
    """A command of ours in a process of its own, with a Ray of its own below it."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: set[Process] = field(default_factory=set)  # everything it ever started

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for ``condition``; the command must go on meanwhile."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.poll() is None, f"ended too early:\n{self.text}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.text}"
            time.sleep(POLL_S)
        self.seen |= descendants(self.process.pid)

    def end(self, *, limit_s: float = LIMIT_S) -> int:
        """Wait for the command's end and that of all it started; its exit status."""
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None:
            self.seen |= descendants(self.process.pid)
            assert time.monotonic() < deadline, f"does not end:\n{self.text}"
            time.sleep(20 * POLL_S)
        while left := [process for process in self.seen if process.is_alive]:
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(20 * POLL_S)
        return self.process.returncode

    def actors(self) -> list[int]:
        """Process ids of its teachers' actors."""
        found = descendants(self.process.pid)
        return [process.pid for process in found if _is_actor(process.pid)]

    def die(self) -> None:
        """Kill the command, and wait for the end of its actors, which nobody tells."""
        actors = {process for process in self.seen if _is_actor(process.pid)}
        assert actors
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + LIMIT_S
        while any(actor.is_alive for actor in actors):
            assert time.monotonic() < deadline, f"actors outlive their driver: {actors}"
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End the command and all below it, at once."""
        for process in self.seen | descendants(self.process.pid):
            if process.is_alive:
                os.kill(process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    @property
    def text(self) -> str:
        """All that it has printed."""
        return self.log.read_text()


def _is_actor(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::TeacherActor")
    except OSError:
        return False


class Commands:
    """Starts commands in a folder, and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Ray's own files: a driver that is killed leaves them. Short, as a socket's path must be.
        self._temporary = tempfile.mkdtemp(prefix="tf-")
        self._runs: list[Run] = []

    def start(self, *arguments: str) -> Run:
        """``python -m distill.run`` with these arguments."""
        log = self._folder / f"log-{len(self._runs)}.txt"
        command = [sys.executable, "-m", "distill.run", *arguments]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdout=out,
                stderr=out,
                env=os.environ | {"TMPDIR": self._temporary},
            )
        self._runs.append(Run(process, log))
        return self._runs[-1]

    def run(self, *arguments: str) -> Run:
        """Start it and wait for its end, which must be a success."""
        run = self.start(*arguments)
        assert run.end() == 0, run.text
        return run

    def close(self) -> None:
        for run in self._runs:
            run.kill()
        shutil.rmtree(self._temporary, ignore_errors=True)


class SmallDisk:
    """96 KiB of disk: two parts of 36 KiB fit, a third does not.

    Where mounting is not allowed, ``fill`` bounds the files that a run's actors can write instead.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._mounted = self._mount("-t", "tmpfs", "-o", "size=96k", "tmpfs")

    def fill(self, run: Run) -> None:
        """To be called when a part is there: from now on there is no room for another two."""
        for actor in [] if self._mounted else run.actors():
            hard = resource.prlimit(actor, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(actor, resource.RLIMIT_FSIZE, (24 << 10, hard))

    def grow(self) -> None:
        """Make room."""
        if self._mounted:
            assert self._mount("-o", "remount,size=2m")

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self.folder)], check=True)

    def _mount(self, *arguments: str) -> bool:
        command = ["mount", *arguments, str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
