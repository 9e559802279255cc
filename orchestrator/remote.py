"""The place of record where that is no local folder: any location that fsspec opens.

Credentials and endpoints come from the environment and fsspec's own files, as for every program
that uses fsspec (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``, …), on every node; none stand in YAML.
"""

# fsspec brings no type stubs.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import difflib
import errno
import os
import secrets
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from orchestrator.layout import FileInfo

MAX_SMALL_BYTES = 1 << 20  # of a file that is read whole: a lease, an identity
LISTING_S = 1.0  # for so long a listing is believed; who waits for parts asks again after it
# A put is atomic there: an object is replaced whole, or not at all.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss"})
_CHANGED = ("LastModified", "last_modified", "mtime", "modified", "created")
_PACKAGES = {"s3": "'tutelage[s3]'", "s3a": "'tutelage[s3]'"}  # of others fsspec names its own


class RemoteError(OSError):
    """What a remote location refused; the message names the URL and what to do."""


def is_remote(root: str) -> bool:
    """Whether a store's root is a URL, as in ``s3://bucket/prefix``."""
    return "://" in root


def check_remote(url: str) -> None:
    """Ask for one listing. Raises ValueError for what cannot be a location, and RemoteError."""
    protocol = _known_protocol(url)
    if protocol in _OBJECT_STORES and not url.split("://", 1)[1].strip("/"):
        raise ValueError(f"'{url}' names no bucket; write {protocol}://BUCKET/PREFIX")
    open_remote(url).probe()


def open_remote(url: str) -> Remote:
    """This process's object for ``url``; all that use it share its listings."""
    return _open_once(url, os.getpid())  # fsspec's objects do not survive a fork


@lru_cache
def _open_once(url: str, pid: int) -> Remote:  # noqa: ARG001, a part of the cache's key
    return Remote(url)


@final
class Remote:
    """A folder behind a URL. Names are relative to it, with ``/``. Safe to use from threads.

    Raises ValueError for a URL that fsspec cannot open. All methods raise RemoteError.
    """

    def __init__(self, url: str) -> None:
        protocol = _known_protocol(url)
        import fsspec

        self.url = url.rstrip("/")
        try:
            # fsspec's cache of listings never expires; other nodes' parts would stay unseen.
            fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            how = f"pip install {package}" if package else str(error)
            raise ValueError(f"'{url}' needs a package that is not installed: {how}") from None
        self._fs: Any = fs
        self._path = str(path).rstrip("/")
        self._puts_whole = protocol in _OBJECT_STORES
        self._listings: dict[str, tuple[float, Mapping[str, FileInfo]]] = {}
        self._lock = threading.Lock()

    def url_of(self, name: str) -> str:
        """The full URL of a name."""
        return f"{self.url}/{name}"

    def list(self, folder: str = "") -> Mapping[str, FileInfo]:
        """Every file below ``folder``, by name; at most ``LISTING_S`` old."""
        with self._lock:
            asked_s, listing = self._listings.get(folder, (float("-inf"), {}))
        now = time.monotonic()
        if now - asked_s < LISTING_S:
            return listing
        with self._explained(folder, "list"):
            found = self._fs.find(self._at(folder), detail=True)
            skipped = len(self._path) + 1
            listing = {
                str(name)[skipped:]: FileInfo(int(info["size"]), _changed_s(info))
                for name, info in found.items()
            }
        with self._lock:
            self._listings[folder] = now, listing
        return listing

    def probe(self) -> None:
        """Ask for a listing, of a folder that is not there: the answer is short."""
        with self._explained("", "list"):
            self._fs.find(self._at(f".probe-{secrets.token_hex(4)}"))

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name, asked anew."""
        with self._explained(name, "look for"):
            return bool(self._fs.exists(self._at(name)))

    def get(self, name: str, path: Path) -> None:
        """Download to ``path``, which may hold a part of it when this fails."""
        with self._explained(name, f"download to {path}"):
            self._fs.get_file(self._at(name), str(path))

    def put(self, path: Path, name: str) -> None:
        """Upload, so that ``name`` holds all of the file or what it held before."""
        with self._explained(name, "write"):
            if self._puts_whole:
                self._fs.put_file(str(path), self._at(name))
            else:
                with self._draft(name) as draft:
                    self._fs.put_file(str(path), draft)
        self._forget_listings()

    def read(self, name: str) -> bytes | None:
        """A small file's content; None if there is no such file.

        Raises RemoteError, too, for one of more than ``MAX_SMALL_BYTES``, which is none of ours.
        """
        try:
            with self._explained(name, "read"):
                found = self._first_bytes(self._at(name))
        except FileNotFoundError:
            return None
        if len(found) > MAX_SMALL_BYTES:
            raise RemoteError(
                f"{self.url_of(name)}: has more than {MAX_SMALL_BYTES:,} bytes, so it is none of "
                "ours; delete it"
            )
        return found

    def _first_bytes(self, path: str) -> bytes:
        try:
            return bytes(self._fs.cat_file(path, start=0, end=MAX_SMALL_BYTES + 1))
        except OSError as error:
            if error.errno == errno.EINVAL and "range" in str(error):
                return b""  # S3 has no first byte of an empty file to give
            raise

    def write(self, name: str, content: bytes) -> None:
        """Put a small file."""
        with self._explained(name, "write"):
            if self._puts_whole:
                self._fs.pipe_file(self._at(name), content)
            else:
                with self._draft(name) as draft:
                    self._fs.pipe_file(draft, content)
        self._forget_listings()

    def create(self, name: str, content: bytes) -> bool:
        """Put a small file unless there is one; whether it was put.

        Where the store has conditional writes (S3, GCS) two that do this at once never both
        succeed; elsewhere they may, and the later one's content stays.
        """
        try:
            with self._explained(name, "write"):
                if not self._puts_whole:
                    self._fs.makedirs(self._fs._parent(self._at(name)), exist_ok=True)
                self._fs.pipe_file(self._at(name), content, mode="create")
        except FileExistsError:
            return False
        self._forget_listings()
        return True

    def move(self, name: str, to: str) -> None:
        """Rename a file."""
        with self._explained(name, f"move to {to}"):
            self._fs.mv(self._at(name), self._at(to))
        self._forget_listings()

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing if there is none."""
        try:
            with self._explained(name, "delete"):
                self._fs.rm(self._at(name), recursive=True)
        except FileNotFoundError:
            return
        finally:
            self._forget_listings()

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    @contextmanager
    def _draft(self, name: str) -> Generator[str]:
        """A place beside ``name``, moved there in the end: for stores whose puts can be seen."""
        target = self._at(name)
        parent, _, base = target.rpartition("/")
        draft = f"{parent}/.{base}.{secrets.token_hex(4)}.tmp"
        self._fs.makedirs(parent, exist_ok=True)
        try:
            yield draft
            self._fs.mv(draft, target)
        except BaseException:
            if self._fs.exists(draft):
                self._fs.rm(draft)
            raise

    def _forget_listings(self) -> None:
        with self._lock:
            self._listings.clear()

    @contextmanager
    def _explained(self, name: str, doing: str) -> Generator[None]:
        """Every library behind fsspec has exceptions of its own; users need one that says what."""
        url = self.url_of(name).rstrip("/")
        try:
            yield
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            if doing in ("read", "delete"):
                raise
            raise RemoteError(
                f"{url}: cannot {doing}: {_text(error)}; create the bucket, or correct signals.root"
                if doing in ("list", "write")
                else f"{url}: is gone; somebody removed it since it was listed"
            ) from error
        except Exception as error:
            raise RemoteError(f"{url}: cannot {doing}: {_text(error)}; {_cure(error)}") from error


def _known_protocol(url: str) -> str:
    import fsspec

    if "::" in url:  # fsspec would open one location through others, and run their templates
        raise ValueError(f"'{url}': '::' chains locations; name one, as in s3://bucket/prefix")
    protocol = url.split("://", 1)[0]
    known = sorted(fsspec.available_protocols())
    if protocol not in known:
        near = difflib.get_close_matches(protocol, known, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(f'{name}://' for name in near)}?" if near else ""
        raise ValueError(
            f"'{url}': fsspec knows no '{protocol}://'{hint or '; s3://, gs://, file:// are known'}"
        )
    return protocol


def _changed_s(info: Mapping[str, Any]) -> float:
    """Seconds since the epoch; 0 where a file system does not say. Each has its own word for it."""
    found = next((info[word] for word in _CHANGED if info.get(word)), 0.0)
    return found.timestamp() if isinstance(found, datetime) else float(found)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _cure(error: Exception) -> str:
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return (
            "credentials come from the environment of every node (for S3 AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY): set them, or give them this right"
        )
    return "correct signals.root or the environment (for S3 AWS_ENDPOINT_URL), or try again later"
