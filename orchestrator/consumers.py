"""Who reads a teacher's recordings, and which passes: said beside them, where every driver looks.

    KEY/consumers/<random>.json    the passes that one driver still needs

In a local folder the driver holds a lock on a second file, and the kernel lets go of it when the
driver dies. At a URL the file says itself until when it counts, and the driver renews it. It
counts for nobody any more where the driver was stopped, or cut off, for longer than that, or
clocks of hosts differ by more: its passes may be deleted then, and must be recorded once more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, cast, final

from orchestrator.holds import hold
from orchestrator.locks import LEASE_S, RENEWALS, LeaseLock, expires_s, parsed, this_process
from orchestrator.remote import Remote, RemoteError
from orchestrator.runs import write_atomically

CONSUMERS = "consumers"
_POLL_S = 0.2
_MAX_BYTES = 1 << 20  # of a declaration
_NAME = re.compile(
    r"[0-9a-f]{32}\.json"
)  # of a declaration at a URL: nothing else is read or deleted


class Consumers(Protocol):
    """All drivers that read a teacher's recordings; an object is one driver's part in it.

    At a URL all methods raise RemoteError, except ``withdraw``.
    """

    def declare(self, passes: Iterable[int]) -> None:
        """Say which passes this driver needs from now on. The first time waits for ``alone``."""
        ...

    def withdraw(self) -> None:
        """Need nothing any more; declarations that cannot be withdrawn now will expire."""
        ...

    def needs_of_others(self) -> set[int]:
        """The passes that other live drivers need; what dead ones left is removed."""
        ...

    def is_anybody(self) -> bool:
        """Whether a live driver, this one included, reads here."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """No driver begins to read meanwhile; so what nobody needs can be deleted."""
        ...


@final
class LocalConsumers:
    """Drivers on machines that share the locks of a teacher's ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CONSUMERS
        self._file = self._folder / f"{uuid.uuid4().hex}.json"
        self._held: int | None = None

    def declare(self, passes: Iterable[int]) -> None:
        text = json.dumps(sorted(passes))
        if self._held is not None:
            write_atomically(self._file, lambda draft: draft.write_text(text))
            return
        with self.alone():
            lock = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_atomically(self._file, lambda draft: draft.write_text(text))
            self._held = lock

    def withdraw(self) -> None:
        if self._held is not None:
            _forget(self._file)
            os.close(self._held)
            self._held = None

    def needs_of_others(self) -> set[int]:
        needed: set[int] = set()
        for path in self._folder.glob("*.json"):
            if path == self._file:
                continue
            if not _is_alive(path.with_suffix(".lock")):
                _forget(path)
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:  # withdrawn since then
                needed |= _passes(file.read(_MAX_BYTES))
        return needed

    def is_anybody(self) -> bool:
        return any(_is_alive(lock) for lock in self._folder.glob("*.lock"))

    def alone(self) -> AbstractContextManager[None]:
        return hold(self._folder, alone=True)


@final
class RemoteConsumers:
    """Drivers on any machine that read the recordings of ``key`` at a URL."""

    def __init__(self, remote: Remote, key: str, *, duration_s: float = LEASE_S) -> None:
        self._remote = remote
        self._folder = f"{key}/{CONSUMERS}"
        self._name = f"{self._folder}/{uuid.uuid4().hex}.json"
        self._duration_s = duration_s
        self._passes: list[int] = []
        self._writing = threading.Lock()
        self._withdrawn = threading.Event()
        self._renewer: threading.Thread | None = None

    def declare(self, passes: Iterable[int]) -> None:
        if self._renewer is not None:
            self._put(sorted(passes))
            return
        with self.alone():
            self._put(sorted(passes))
        self._withdrawn.clear()
        self._renewer = threading.Thread(target=self._renew, name="consumer", daemon=True)
        self._renewer.start()

    def withdraw(self) -> None:
        if self._renewer is None:
            return
        self._withdrawn.set()
        self._renewer.join()
        self._renewer = None
        with suppress(RemoteError):
            self._remote.remove(self._name)

    def needs_of_others(self) -> set[int]:
        needed: set[int] = set()
        others = {name: lease for name, lease in self._leases().items() if name != self._name}
        for name, lease in others.items():
            left_s = expires_s(lease) - time.time()
            if left_s > 0:
                needed |= _whole(lease.get("passes"))
            elif left_s < -self._duration_s:  # later than somebody who was cut off may come back
                self._remote.remove(name)
        return needed

    def is_anybody(self) -> bool:
        return any(expires_s(lease) > time.time() for lease in self._leases().values())

    @contextmanager
    def alone(self) -> Generator[None]:
        lock = LeaseLock(self._remote, self._folder, duration_s=self._duration_s)
        while not lock.acquire():
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            lock.release()

    def _leases(self) -> dict[str, dict[str, Any]]:
        """Every declaration, by name."""
        start = f"{self._folder}/"
        listed = self._remote.list(self._folder)
        names = [name for name in listed if _NAME.fullmatch(name.removeprefix(start))]
        read = ((name, self._remote.read(name)) for name in names)
        return {name: parsed(content.decode(errors="replace")) for name, content in read if content}

    def _put(self, passes: list[int] | None = None) -> None:
        """Declare ``passes``, or once more what was declared last."""
        with self._writing:
            self._passes = self._passes if passes is None else passes
            lease = {"expires_s": time.time() + self._duration_s, "passes": self._passes}
            self._remote.write(self._name, json.dumps(this_process() | lease).encode())

    def _renew(self) -> None:
        while not self._withdrawn.wait(self._duration_s / RENEWALS):
            with suppress(RemoteError):  # the next time may be better; else it expires
                self._put()


def _passes(text: bytes) -> set[int]:
    """The passes in a declaration; none in what is no list."""
    try:
        return _whole(json.loads(text))
    except (ValueError, RecursionError):
        return set()


def _whole(values: object) -> set[int]:
    found = cast("list[object]", values) if isinstance(values, list) else []
    return {value for value in found if isinstance(value, int)}


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_suffix(".lock").unlink(missing_ok=True)


def _is_alive(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP:
            return False
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
