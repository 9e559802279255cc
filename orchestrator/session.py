"""One Ray session: started with what we rely on, ended without leftovers."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

# Set before Ray is imported: it reads them at import, and so do its workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # default 2 s: every report would wait for it
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else a worker's prints appear twice
    "RAY_worker_niceness": "0",  # default 15: students would yield to everything else
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep CUDA_VISIBLE_DEVICES where no GPU is asked
    "RAY_COLOR_PREFIX": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we write TensorBoard ourselves
}


@contextmanager
def ray_session(*, num_cpus: int | None = None) -> Generator[None]:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine and end it after.

    SIGTERM ends the session as Ctrl-C does. A session that is already there is used as it is.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    folder = "" if address else tempfile.mkdtemp(prefix="tutelage-")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                "local",  # a bare init could join another cluster that runs on this machine
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)  # Ray's last processes may still write logs


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt
