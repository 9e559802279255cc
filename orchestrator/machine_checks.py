"""What ``tutelage doctor`` finds out of a machine: devices, folders, shared memory and ports."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.findings import Finding, missing, note, well
from orchestrator.preflight import has_gpu

LITTLE_BYTES = 5e9  # free on a disk: a recording of features soon takes more
_SHARED_MEMORY = Path("/dev/shm")
_OBJECT_STORE_SHARE = 0.3  # of the memory: what Ray takes for objects
# Ray's sockets lie below the temporary folder, and the path of one has at most 107 characters:
# /tutelage-12345678/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store
_SOCKET_PATH, _SOCKET_BELOW = 107, 83
# What a head node listens at, unless it is told otherwise.
_HEAD_PORTS = {6379: "a head node (GCS)", 8265: "Ray's dashboard and jobs", 10001: "Ray Client"}


def devices() -> Iterator[Finding]:
    """Processors that this process may use, memory, and GPUs as PyTorch sees them."""
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    memory = memory_bytes()
    text = f"{there} CPUs, {memory / 1e9:.0f} GB of memory"
    if allowed < there:
        yield note(
            f"{text}, but this process may use {allowed} CPUs, and Ray counts {there}",
            f"export OMP_NUM_THREADS={allowed}, and set workers.cpus and teachers' cpus by that",
        )
    else:
        yield well(text)
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield well(f"GPU {index}: {device.name}, {device.total_memory / 1e9:.0f} GB")
    elif has_gpu():
        yield missing(
            f"this machine shows a GPU, and PyTorch {torch.__version__} cannot use it",
            "install the build of PyTorch for your driver: https://pytorch.org/get-started/locally",
        )
    else:
        yield well("no GPU: teachers and students compute on CPUs")


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def folders(paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Whether files can be written, renamed and locked in each folder, and how much fits."""
    for what, path in paths.items():
        shown = path.expanduser().absolute()
        try:
            free = _try_out(shown)
        except OSError as error:
            yield _unusable(what, shown, error)
            continue
        text = f"{what}: {shown} can be written, {free / 1e9:,.0f} GB free"
        if free < LITTLE_BYTES:
            yield note(text, "free some with `tutelage cache --list` and `--remove KEY`")
        else:
            yield well(text)


def _try_out(folder: Path) -> int:
    """Use a folder as a store and runs do; returns its free bytes. What was made is removed."""
    made = _missing_parents(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", delete=False) as file:
            draft, renamed = Path(file.name), Path(f"{file.name}.renamed")
            try:
                file.write(b"written by tutelage doctor")
                file.flush()
                os.fsync(file.fileno())
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.replace(renamed)
            finally:
                draft.unlink(missing_ok=True)
                renamed.unlink(missing_ok=True)
        return shutil.disk_usage(folder).free
    finally:
        for parent in made:
            parent.rmdir()


def _missing_parents(folder: Path) -> list[Path]:
    """``folder`` and those above it that are not there yet, the deepest first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _unusable(what: str, folder: Path, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        return missing(
            f"{what}: {folder} knows no locks ({reason}); two drivers would record a part twice",
            "mount it with locks, as NFS 4 has them, or choose another folder",
        )
    fields = {"signals": "signals.root", "runs": "output.root", "data": "data.cache_dir"}
    field = fields.get(what)
    return missing(
        f"{what}: {folder} cannot be written: {reason}",
        f"-s {field}=FOLDER, one that you may write" if field else "",
    )


def temporary_folder() -> Iterator[Finding]:
    """Ray keeps its sockets and logs there."""
    folder = Path(tempfile.gettempdir())
    longest = _SOCKET_PATH - _SOCKET_BELOW
    if len(str(folder)) > longest:
        yield missing(
            f"temporary files: the path {folder} is too long for Ray's sockets, {len(str(folder))} "
            f"characters of {longest}",
            "export TMPDIR=/tmp",
        )
        return
    yield from folders({"temporary files": folder})


def object_store() -> Iterator[Finding]:
    """Ray's objects lie in shared memory, or, many times slower, on the disk."""
    if not _SHARED_MEMORY.is_dir():
        return
    free, wanted = shutil.disk_usage(_SHARED_MEMORY).free, _OBJECT_STORE_SHARE * memory_bytes()
    text = f"shared memory: {free / 1e9:.1f} GB free in {_SHARED_MEMORY}"
    if free < wanted:
        yield note(
            f"{text}, and Ray takes {wanted / 1e9:.1f} GB where it can",
            f"mount -o remount,size={wanted / 1e9:.0f}G {_SHARED_MEMORY}, or in a container "
            f"--shm-size={wanted / 1e9:.0f}g",
        )
    else:
        yield well(text)


def ports() -> Iterator[Finding]:
    """Whether the ports of a head node are free: only one that starts a cluster needs them."""
    taken = {port: use for port, use in _HEAD_PORTS.items() if not is_free(port)}
    for port, use in taken.items():
        yield note(
            f"port {port} is taken: {use} runs here already, or something else does",
            f"see what it is by `ss -ltnp 'sport = :{port}'`; `ray start --head` needs it",
        )
    free = [str(port) for port in _HEAD_PORTS if port not in taken]
    if free:
        yield well(f"{', '.join(free)} are free for a head node; `board` takes the first from 6006")


def is_free(port: int) -> bool:
    """Whether nobody listens at a port of this machine."""
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) != 0
