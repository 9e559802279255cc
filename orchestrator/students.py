"""Students: Ray Train around ``engine.fit``; small ones in this process, by the same code."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from distill.config import Experiment, Normalization
from distill.config import Workers as WorkersConfig
from distill.methods import MethodConfig
from distill.signals import Taps
from orchestrator.recording import Recording
from orchestrator.runs import RunFolder
from orchestrator.seats import Hold
from orchestrator.teachers import InputPlan, TeacherRecipe, input_plan

if TYPE_CHECKING:
    import numpy as np
    import torch

    from distill.parallel import Workers

BOARD_S = 60.0  # for the board of events to answer
# Starts that find no place, each after a minute: a node that was lost, or asked for, may come late.
MAX_STARTS = 30
MAX_FAILURES = 3  # of a worker group: each goes on from the last epoch's checkpoint
RESIZE_S = 60.0  # between looks for more room: growing costs a start, and the epoch that was begun
ELASTIC_STARTS = 6  # that find no place: where a node was lost it may take three


@final
@dataclass(frozen=True, slots=True)
class TeacherFacts:
    """What results say of a teacher."""

    accuracy: float
    parameters: int


@final
@dataclass(frozen=True, slots=True)
class Classifier:
    """A teacher's last layer: weight [C, c], and bias [C] if it has one."""

    weight: np.ndarray
    bias: np.ndarray | None


@final
@dataclass(frozen=True, slots=True)
class StudentJob:
    """One run: a student, a method, a seed, and the records it learns from."""

    experiment: Experiment
    method: MethodConfig
    digest: str
    seed: int
    folder: Path
    recordings: tuple[Recording, ...]  # of the teachers and signals that the method needs
    recipes: tuple[TeacherRecipe, ...]  # the same teachers, where they run in the worker
    facts: Mapping[str, TeacherFacts]
    signal_bytes: int
    title: str
    taps: Mapping[str, Taps] = field(default_factory=dict)  # of the same teachers, all
    classifiers: Mapping[str, Classifier] = field(
        default_factory=dict
    )  # where the method reads them
    actors: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # live ones, by identity key
    normalization: Normalization | None = None  # default: the data's own
    tested: bool = True  # no trial of a sweep is: the test images are not for choosing

    def with_actors(self, actors: Mapping[str, Sequence[Any]]) -> StudentJob:
        """The same job, with live teachers to ask."""
        return replace(self, actors=actors)

    @property
    def plan(self) -> InputPlan:
        return input_plan(self.experiment)


@final
@dataclass(frozen=True, slots=True)
class StartEvent:
    """A run begins, or goes on."""

    job: str  # its title
    num_epochs: int
    start_epoch: int
    num_workers: int = 1


@final
@dataclass(frozen=True, slots=True)
class EpochEvent:
    """What a driver is told after an epoch."""

    job: str
    epoch: int  # epochs done
    row: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class ResizeEvent:
    """Training goes on with another number of workers; 0: it waits for room."""

    job: str
    epoch: int  # epochs done
    before: int | None  # None: it begins
    after: int
    reason: str


@final
@dataclass(frozen=True, slots=True)
class FailureEvent:
    """A run that cannot go on, and why."""

    job: str
    reason: str


Event = StartEvent | EpochEvent | ResizeEvent | FailureEvent
Held = Callable[[], Sequence[Hold]]  # what others than students take of the cluster's nodes


class StudentError(RuntimeError):
    """Training failed for good; the message says why."""


def train_students(
    jobs: Sequence[StudentJob],
    config: WorkersConfig,
    *,
    storage: Path,
    on_event: Callable[[Event], None],
    held: Held = tuple,
) -> None:
    """Train every job that is not finished, in order, in one worker group.

    One group serves all: starting one takes 10 s and more. A run that was broken off goes on from
    its last epoch. Elastic workers take the room beside what is ``held``. Raises StudentError.
    """
    todo = [job for job in jobs if not RunFolder(job.folder).finished]
    if not todo:
        return
    if config.most == 0:
        _train_here(todo, on_event)
    elif config.is_elastic:
        from orchestrator.elastic import train_elastically

        train_elastically(
            lambda told: _train_on_ray(todo, config, storage, told), config, held, on_event
        )
    else:
        _train_on_ray(todo, config, storage, on_event)


def _train_here(jobs: Sequence[StudentJob], on_event: Callable[[Event], None]) -> None:
    import torch

    from distill.memory import keep_freed_memory
    from distill.parallel import ALONE

    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for job in jobs:
        run_job(job, ALONE, device, on_event=on_event, barrier=lambda _: None)


def _train_on_ray(
    jobs: Sequence[StudentJob],
    config: WorkersConfig,
    storage: Path,
    on_event: Callable[[Event], None],
) -> None:
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from orchestrator.boards import events_of

    resources = {"CPU": config.cpus} | ({"GPU": config.gpus} if config.gpus else {})
    name = f"train-{time.time_ns()}"  # unique: our checkpoints are in the run folders
    run_config = RunConfig(
        name=name,
        storage_path=str(storage.resolve()),
        failure_config=FailureConfig(
            max_failures=MAX_FAILURES,
            controller_failure_limit=ELASTIC_STARTS if config.is_elastic else MAX_STARTS,
        ),
        logging_config=LoggingConfig(log_level="ERROR"),
    )
    scaling = ScalingConfig(
        num_workers=(config.least, config.most) if config.is_elastic else config.most,
        use_gpu=config.gpus > 0,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=RESIZE_S,
    )
    with events_of(on_event) as board:
        loop = {"jobs": list(jobs), "board": board, "threads": int(config.cpus)}
        trainer = TorchTrainer(
            _worker_loop, train_loop_config=loop, scaling_config=scaling, run_config=run_config
        )
        try:
            with _interruptible():
                trainer.fit()
        except (TrainingFailedError, RayError) as error:
            raise StudentError(_reason(error)) from error
        finally:  # what Ray Train left there is read by nobody
            shutil.rmtree(storage / name, ignore_errors=True)


@contextmanager
def _interruptible() -> Generator[None]:
    """Make Ctrl-C a KeyboardInterrupt again; afterwards it is handled as it was before.

    Ray Train takes it over for good, to stop its workers, and then leaves the whole program.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _reason(error: Exception) -> str:
    """The first worker's own error: what Ray wraps around it helps nobody."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "_base_exc", failure)
        return f"worker {rank} failed: {cause}"
    return str(error)


def _worker_loop(config: dict[str, Any]) -> None:
    import ray
    import ray.train
    import ray.train.torch
    import torch

    from distill.memory import keep_freed_memory
    from distill.parallel import Workers

    keep_freed_memory()
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    # A group that was started anew leaves those that failed alone.
    failed = ray.get(config["board"].failed.remote(), timeout=BOARD_S)
    for job in config["jobs"]:
        if job.title not in failed and not RunFolder(job.folder).finished:
            run_job(
                job,
                workers,
                ray.train.torch.get_device(),
                on_event=config["board"].post.remote,
                barrier=lambda row: ray.train.report(dict(row)),
            )


def run_job(
    job: StudentJob,
    workers: Workers,
    device: torch.device,
    *,
    on_event: Callable[[Event], Any],
    barrier: Callable[[Mapping[str, float]], None],
) -> None:
    """One run on one rank. A loss that diverges ends this run alone, and says so."""
    from distill.engine import DivergedError
    from orchestrator.run_student import run_student

    try:
        run_student(job, workers, device, on_event=on_event, barrier=barrier)
    except DivergedError as error:
        if workers.rank == 0:
            on_event(FailureEvent(job.title, str(error)))
