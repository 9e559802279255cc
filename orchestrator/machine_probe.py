"""What this machine itself does: processes started, parts written and read."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from orchestrator.parts import PartMetadata, verify_part, write_part

_PART_BYTES = 8 << 20  # of a part that is written for its time
_STORE_S = 0.1  # for each of the store's figures


@final
@dataclass(frozen=True, slots=True)
class StoreSpeed:
    """Of the place where records lie; of a URL, of this machine's temporary files."""

    part_s: float  # what writing takes whatever the size
    write_bytes_s: float
    verify_bytes_s: float


def process_seconds() -> float:
    """Until a fresh process has imported what an actor needs: most of what starting one takes."""
    command = [sys.executable, "-c", "import orchestrator.fleet, distill.engine"]
    return seconds_of(lambda: subprocess.run(command, check=True, env=_importing_ours()))


def store_speed(folder: Path) -> StoreSpeed:
    """Parts of one row and of many, written and read back, checksums and all."""
    row = np.random.default_rng(0).integers(0, 256, (1, 4096), dtype=np.uint8)
    many = np.repeat(row, _PART_BYTES // row.nbytes, axis=0)
    metadata = PartMetadata(
        teacher="0" * 20,
        spec="logits",
        codec="float16",
        shape=(2048,),
        pass_index=0,
        first_row=0,
        num_rows=1,
        row_bytes=row.nbytes,
        error=0.0,
    )
    small, large = folder / "small", folder / "large"
    part_s = typical(lambda: write_part(small, row, metadata), seconds=_STORE_S)
    whole = replace(metadata, num_rows=len(many))
    write_s = typical(lambda: write_part(large, many, whole), seconds=_STORE_S)
    verify_s = typical(lambda: verify_part(large), seconds=_STORE_S)
    return StoreSpeed(
        part_s, many.nbytes / max(write_s - part_s, write_s / 10), many.nbytes / verify_s
    )


def seconds_of(call: Callable[[], object]) -> float:
    """What one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def typical(call: Callable[[], object], *, seconds: float) -> float:
    """The median of what calls take, repeated for ``seconds``, at least once."""
    end, taken = time.perf_counter() + seconds, list[float]()
    while not taken or time.perf_counter() < end:
        taken.append(seconds_of(call))
    return statistics.median(taken)


def _importing_ours() -> dict[str, str]:
    """An environment in which a process finds this package, wherever it is started."""
    ours = str(Path(__file__).resolve().parent.parent)
    paths = (ours, os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
