"""One recorder at a time for each teacher, also when recorders are killed."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Self, final

LOCK_FILE = "recording.lock"


@final
class RecordingLock:
    """An exclusive lock between processes on a teacher's folder.

    The kernel holds it, and lets go when the process ends in whatever way; so a lock file that
    lies about locks nothing. Used as ``with RecordingLock(store.path): …``, or by ``acquire``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting; whether this object holds it now."""
        if self._descriptor is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(descriptor, fcntl.LOCK_EX) or not self._is_current(descriptor):
            os.close(descriptor)
            return False
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go of the lock, if this object holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str | None:
        """Who holds the lock, as ``process 4711 on host node3``; None if nobody does."""
        if not self.path.exists():
            return None
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            if _try_lock(descriptor, fcntl.LOCK_SH):
                return None
            owner = os.pread(descriptor, 4096, 0).decode(errors="replace")
        finally:
            os.close(descriptor)
        try:
            values = json.loads(owner)
            return f"process {values['pid']} on host {values['host']}"
        except (ValueError, TypeError, KeyError):  # between taking the lock and writing the name
            return "another process"

    def __enter__(self) -> Self:
        """Take the lock. Raises BlockingIOError naming the holder where there is one."""
        if not self.acquire():
            raise BlockingIOError(
                f"{self.path.parent}: {self.holder() or 'another process'} is recording here; "
                "wait until it has ended, or end it"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_current(self, descriptor: int) -> bool:
        """False where the folder was removed between opening the file and locking it."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        # flock, not lockf: that one is lost as soon as any descriptor of the file is closed.
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
