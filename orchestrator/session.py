"""One Ray session: started with what we rely on, ended without leftovers."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from distill.loading import ConfigError
from distill.storage import CACHE, SIGNALS, STORAGE

# Set before Ray is imported: it reads them at import, and so do its workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # default 2 s: every report would wait for it
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else a worker's prints appear twice
    "RAY_worker_niceness": "0",  # default 15: students would yield to everything else
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep CUDA_VISIBLE_DEVICES where no GPU is asked
    "RAY_COLOR_PREFIX": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables: a sweep shows its trials itself
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we write TensorBoard ourselves
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's ends a search by Ctrl-C as if it were complete
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a trial's relative paths mean the driver's
}
STATE_API_S = 20
_PREFIX = "tutelage-"  # short: the path of a socket in the folder has at most 107 characters
_OWNER = "owner.lock"  # held while the folder's process lives; without it a folder is not ours


@contextmanager
def ray_session(*, num_cpus: int | None = None, dashboard: bool = False) -> Generator[None]:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine and end it after.

    With ``dashboard`` Ray's State API answers: Train asks it to free what a stopped trial's workers
    held. SIGTERM ends the session as Ctrl-C does. A session that is already there is used as it is.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    with nullcontext() if address else scratch_folder() as folder:
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            if address:
                ray.init(
                    address,
                    runtime_env=_told_to_workers(),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(
                    "local",  # a bare init could join another cluster that runs on this machine
                    num_cpus=num_cpus,
                    **_dashboard(dashboard),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder),
                )
            yield
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)


def _told_to_workers() -> dict[str, Any]:
    """What a cluster's processes inherit from the node that started them, and not from a driver."""
    names = (*ENVIRONMENT, STORAGE, CACHE, SIGNALS, "PYTHONPATH")
    return {
        "env_vars": {name: os.environ[name] for name in names if name in os.environ},
        "worker_process_setup_hook": "orchestrator.network.use_the_clusters_interface",
    }


def check_state_api() -> None:
    """Raise ConfigError where Ray's State API does not answer.

    Train frees through it what the workers of a stopped trial held; without it the next trial would
    wait for ever.
    """
    from ray.util.state import list_placement_groups

    try:
        list_placement_groups(limit=1, timeout=STATE_API_S)
    except Exception as error:  # whatever it is, Train would meet it too, and say nothing
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ConfigError(
            f"workers.count: trials of several workers need Ray's State API, which does not answer "
            f"({first}); install 'ray[default]' on the head node and start it with "
            "--include-dashboard=true, or set workers.count=1"
        ) from error


def _dashboard(wanted: bool) -> dict[str, Any]:
    """Ray's settings for a dashboard that this session's processes ask, and no other cluster's."""
    if not wanted:
        return {"include_dashboard": False}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}


@contextmanager
def scratch_folder() -> Generator[Path]:
    """A folder for Ray's files, deleted in the end; those of killed processes are deleted first.

    The process holds a lock on a file inside. The kernel lets go of it when the process dies, and
    who then gets it deletes the folder, unless some process of Ray's still uses it.
    """
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # its process lives, or another one is deleting it
            _remove_if_abandoned(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    draft = folder / f"{_OWNER}.draft"
    owner = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX)
        draft.rename(folder / _OWNER)  # held already when others can see it
        yield folder
    finally:
        _remove(folder)
        os.close(owner)


def _remove_if_abandoned(folder: Path) -> None:
    """Delete a folder of ours whose process is dead and that nobody uses. Raises OSError."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return
    owner = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_used(folder):
            _remove(folder)
    finally:
        os.close(owner)


def _remove(folder: Path) -> None:
    """Delete a folder, or mark it as ours to delete where Ray's last processes still write logs."""
    for entry in folder.iterdir():
        if entry.name != _OWNER:  # goes last: whoever is killed here has a successor
            shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        with suppress(FileNotFoundError):
            (folder / _OWNER).touch()


def _is_used(folder: Path) -> bool:
    """Whether another process was started with this folder, or has a file in it open.

    Ray's agents outlive a killed driver by up to a minute. Where there is no /proc nobody knows.
    """
    processes = (path for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid()))
    name = str(folder.resolve())
    return any(name in text for process in processes for text in _traces(process))


def _traces(process: Path) -> Iterator[str]:
    """A process's command line, and the names of its open files; nothing of another user's."""
    with suppress(OSError):
        yield (process / "cmdline").read_bytes().decode(errors="replace")
        for descriptor in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                yield os.readlink(descriptor)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt
