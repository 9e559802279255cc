"""A run's checkpoints: written whole, and read as data: a folder of runs may be a stranger's."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.students import StudentError

if TYPE_CHECKING:
    import torch

    from distill.learners import Learner

# What a checkpoint says beside the learner's state.
PROGRESS = ("start_epoch", "best_epoch", "best", "seconds", "seconds_waiting")
_WHOLE = ("start_epoch", "best_epoch")


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write PROGRESS and ``learner``, so that ``path`` holds all of it or what it held before.

    Raises OSError where there is no room.
    """
    import torch

    content = io.BytesIO()  # torch's own writing to a full disk ends in an error that names no disk
    torch.save(dict(state), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.unlink(missing_ok=True)  # of a writer that was killed; a link would lead elsewhere
    try:
        with beside.open("xb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    os.replace(beside, path)


def next_epoch_of(path: Path) -> int:
    """The epoch that a run goes on with. Raises StudentError naming a file that does not say."""
    with _explained(path):
        return _read(path, mapped=True)["start_epoch"]


def student_state(path: Path) -> dict[str, Any]:
    """The student's tensors by name. Raises StudentError as ``restore``."""
    with _explained(path):
        return _read(path)["learner"]["student"]


def restore(path: Path, learner: Learner, *, device: torch.device) -> dict[str, float]:
    """Put a checkpoint's state into ``learner``; returns its PROGRESS.

    Raises StudentError naming the file, and what to do, where it is damaged or of another run.
    """
    with _explained(path):
        state = _read(path, device=device)
        learner.load_state_dict(state["learner"])
    return {name: state[name] for name in PROGRESS}


def _read(
    path: Path, *, device: torch.device | str = "cpu", mapped: bool = False
) -> dict[str, Any]:
    import torch

    from distill.models.inspection import inspect_checkpoint

    inspect_checkpoint(path)
    loaded = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    state = cast("dict[str, Any]", loaded)
    for name in PROGRESS:
        kinds = (int,) if name in _WHOLE else (int, float)
        if type(state[name]) not in kinds or state["start_epoch"] < 0:
            raise ValueError(f"its {name} is {str(state[name])[:20]}")
    return state


@contextmanager
def _explained(path: Path) -> Generator[None]:
    from distill.models.checkpoints import why

    try:
        yield
    except Exception as error:  # a damaged or hostile file may fail in any way
        reason = why(error).removeprefix(f"checkpoint '{path}' ")
        raise StudentError(
            f"'{path}' is no checkpoint of this run ({reason}); delete the folder "
            f"'{path.parent}', and the run begins anew"
        ) from error
