"""A real S3 server in this process, and nodes that mirror what it stores."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

from distill.signals import SignalSpec
from orchestrator.codecs import make_codec
from orchestrator.mirror import Mirror
from orchestrator.remote import Remote
from orchestrator.store import Column, PartId, SignalStore
from tests.test_store import IDENTITY, flip

REPOSITORY = Path(__file__).parents[1]


class Server:
    """A server, and the requests that it answered, as ``GET /bucket/…``."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        from moto.server import ThreadedMotoServer  # seconds, which other processes need not wait

        self.requests: list[str] = []
        log = logging.Handler()
        log.emit = lambda record: self.requests.extend(
            re.findall(r"(?:GET|PUT|POST|DELETE) /\S+", record.getMessage())
        )
        logger = logging.getLogger("werkzeug")
        logger.setLevel(logging.INFO)
        logger.addHandler(log)
        self._server = ThreadedMotoServer(address, 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"

    def stop(self) -> None:
        self._server.stop()

    def downloads(self) -> list[str]:
        """The parts that were asked for."""
        return [r for r in self.requests if r.startswith("GET") and r.endswith(".arrow")]


def node(url: str, folder: Path, max_bytes: int | None = None) -> Column:
    """The column as a node with this mirror sees it."""
    store = SignalStore(Mirror(url, folder, max_bytes), IDENTITY)
    return store.column(SignalSpec("logits"), make_codec("float16", (10,)))


def remote_of(column: Column) -> Remote:
    assert isinstance(column.store.root, Mirror)
    return column.store.root.remote


def name_of(column: Column, part: PartId) -> str:
    return column.part_path(part).relative_to(column.store.place.root).as_posix()


def damage(column: Column, part: PartId, folder: Path) -> None:
    """Flip a bit of a part at the place of record."""
    remote, name, copy = remote_of(column), name_of(column, part), folder / "copy"
    remote.get(name, copy)
    flip(copy, 5000)
    remote.put(copy, name)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs ``code``, once it is ready."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
