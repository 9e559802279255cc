"""One recorder at a time for each teacher, also when recorders are killed.

On a local folder the kernel sees to it. On a remote one a lease does: an object that names its
holder and when it expires, and that the holder renews. Two recorders may both believe to hold it
for a while: where the store has no conditional writes, or clocks of hosts differ by more than a
lease lasts, or a holder was stopped for so long. That costs work, and never correctness: both
write the same parts, and each part is put whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Protocol, Self, cast, final

from orchestrator.layout import StoreError
from orchestrator.remote import Remote, RemoteError

LOCK_FILE = "recording.lock"
LEASE_FILE = "recording.lease"
LEASE_S = 60.0  # of a lease that is not renewed any more
RENEWALS = 4  # in the time of a lease
_FARTHEST_S = 3600.0  # no clock is so wrong that a lease lasts longer
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ESPIPE, errno.ENXIO)  # a link, a folder, a pipe
_HOST = re.compile(r"[\w.:-]{1,253}", re.ASCII)


class Lock(Protocol):
    """Between all recorders of a teacher."""

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting; whether this object holds it now."""
        ...

    def release(self) -> None:
        """Let go of the lock, if this object holds it."""
        ...

    def holder(self) -> str | None:
        """Who holds the lock, as ``process 4711 on host node3``; None if nobody does."""
        ...

    def __enter__(self) -> Self:
        """Take the lock. Raises BlockingIOError naming the holder where there is one."""
        ...

    def __exit__(self, *_: object) -> None: ...


@final
class FolderLock:
    """An exclusive lock between processes on a teacher's folder, or on another one.

    The kernel holds it, and lets go when the process ends in whatever way; so a lock file that
    lies about locks nothing. Used as ``with FolderLock(store.path): …``, or by ``acquire``.
    All methods but ``release`` raise StoreError where the lock file is no file: a link, a pipe.
    """

    def __init__(self, folder: Path, *, file: str = LOCK_FILE, doing: str = "recording") -> None:
        self.path = folder / file
        self._doing = doing
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting; whether this object holds it now."""
        if self._descriptor is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = self._open(os.O_CREAT)
        if not _try_lock(descriptor, fcntl.LOCK_EX) or not self._is_current(descriptor):
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(this_process()).encode(), 0)
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
        descriptor = self._open()
        try:
            if _try_lock(descriptor, fcntl.LOCK_SH):
                return None
            owner = os.pread(descriptor, 4096, 0).decode(errors="replace")
        finally:
            os.close(descriptor)
        return _described(owner)  # nothing yet, between taking the lock and writing the name

    def __enter__(self) -> Self:
        if not self.acquire():
            raise _busy(str(self.path.parent), self.holder(), self._doing)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self, flags: int = 0) -> int:
        # What a link leads to would be written over.
        descriptor = -1
        try:
            flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.path, flags, 0o666)
            os.lseek(descriptor, 0, os.SEEK_END)  # fails for a pipe
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if error.errno not in _NO_FILE:
                raise
            raise StoreError(
                f"{self.path}: cannot be a lock ({error.strerror}); delete it"
            ) from error
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        """False where the folder was removed between opening the file and locking it."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


@final
class LeaseLock:
    """A lease on a teacher's recordings in a remote store. Methods raise RemoteError."""

    def __init__(self, remote: Remote, key: str, *, duration_s: float = LEASE_S) -> None:
        self._remote, self._key = remote, key
        self._name = f"{key}/{LEASE_FILE}"
        self._duration_s = duration_s
        self._token = ""
        self._released = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lease if there is none, or one that expired; whether this object holds it."""
        if self._token:
            return True
        found = self._read()
        if found is not None:
            if expires_s(found) > time.time():
                return False
            self._remote.remove(self._name)
        token = uuid.uuid4().hex
        created = self._remote.create(self._name, self._content(token))
        # Read back: without conditional writes another may have written over it.
        if not created or (self._read() or {}).get("token") != token:
            return False
        self._token = token
        self._released.clear()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewer.start()
        return True

    def release(self) -> None:
        """End the lease, if this object holds it; one that cannot be ended now will expire."""
        if self._renewer is None:
            return
        self._released.set()
        self._renewer.join()
        try:
            if (self._read() or {}).get("token") == self._token:
                self._remote.remove(self._name)
        except RemoteError:  # what was recorded is recorded; only a successor has to wait
            pass
        finally:
            self._token, self._renewer = "", None

    def holder(self) -> str | None:
        found = self._read()
        if found is None or expires_s(found) <= time.time():
            return None
        return _described(json.dumps(found))

    def __enter__(self) -> Self:
        if not self.acquire():
            raise _busy(self._remote.url_of(self._key), self.holder(), "recording")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _content(self, token: str) -> bytes:
        lease = this_process() | {"token": token, "expires_s": time.time() + self._duration_s}
        return json.dumps(lease).encode()

    def _read(self) -> dict[str, Any] | None:
        content = self._remote.read(self._name)
        return None if content is None else parsed(content.decode(errors="replace"))

    def _renew(self) -> None:
        while not self._released.wait(self._duration_s / RENEWALS):
            try:
                if (self._read() or {}).get("token") != self._token:
                    return  # it expired, and somebody took it over or removed it
                self._remote.write(self._name, self._content(self._token))
            except RemoteError:
                continue  # the next time may be better; else the lease expires


def this_process() -> dict[str, Any]:
    """What names this process in a lock or lease."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def parsed(text: str) -> dict[str, Any]:
    """A lease's fields; none where it is none."""
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", values) if isinstance(values, dict) else {}


def _described(owner: str) -> str:
    values = parsed(owner)
    pid, host = values.get("pid"), values.get("host")
    if isinstance(pid, int) and isinstance(host, str) and _HOST.fullmatch(host):
        return f"process {pid} on host {host}"
    return "another process"


def expires_s(lease: dict[str, Any]) -> float:
    """Seconds since the epoch; long ago for what is no lease, as a writer that died may leave."""
    found = lease.get("expires_s")
    if isinstance(found, float) and found < time.time() + _FARTHEST_S:
        return found
    return 0.0


def _busy(place: str, holder: str | None, doing: str) -> BlockingIOError:
    return BlockingIOError(
        f"{place}: {holder or 'another process'} is {doing} here; wait until it has ended, or "
        "end it"
    )


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        # flock, not lockf: that one is lost as soon as any descriptor of the file is closed.
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
