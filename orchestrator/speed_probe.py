"""What this machine does in a few seconds, by the code that does the work itself.

Teachers answer for, and encode, images of the first pass; students train epochs of a few steps from
a store of drawn numbers; parts are written where the records lie. One thing runs at a time: what
runs at the same time later shares the machine, which the formulas account for.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from distill.batches import BatchPlan
from distill.config import Experiment
from distill.datasets import Data, Split, load_data
from distill.engine import Fit, evaluate, fit
from distill.learners import Compute, Learner
from distill.memory import keep_freed_memory
from distill.signals import LossReport
from distill.weight_tables import WeightTable
from orchestrator.codecs import make_codec
from orchestrator.machine_probe import StoreSpeed, process_seconds, seconds_of, store_speed, typical
from orchestrator.recording import Recording, Serving
from orchestrator.remote import is_remote
from orchestrator.run_student import build_learner, signal_source
from orchestrator.store import PartId
from orchestrator.students import StudentJob
from orchestrator.teachers import Teacher

PROBE_S = 5.0  # for everything
_STEPS = 20  # of a probed epoch
_DRAWN_BYTES = 32 << 20  # at most, of drawn signals
_SMALL, _EVALUATED = 16, 512  # images


@final
@dataclass(frozen=True, slots=True)
class StudentSpeed:
    """Of one worker, with the others' share of the machine free."""

    images_per_s: float
    evaluated_per_s: float
    parameters: int = 0  # whose gradients workers exchange


@final
@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured."""

    teachers: Mapping[str, float]  # images/s of one actor, by name
    students: Mapping[str, StudentSpeed]  # by key_of a job
    store: StoreSpeed | None
    process_s: float = 0.0  # until a fresh process has imported what an actor needs


def key_of(job: StudentJob) -> str:
    """What runs share that differ in their seeds alone."""
    return f"{job.title.rpartition(' seed ')[0] or job.title} {job.digest}"


def num_threads(cpus: float) -> int:
    """Threads of an actor or a worker that takes so many CPUs."""
    return max(1, int(cpus))


def measure(
    servings: Sequence[Serving],
    jobs: Sequence[StudentJob],
    *,
    store: str | None,
    seconds: float = PROBE_S,
) -> Speeds:
    """Give every teacher, and every method among ``jobs``, an equal share of ``seconds``.

    ``store`` is where records lie, None where none are written. What is slow takes longer than its
    share: a step is never cut short, and starting a process takes seconds of its own. Raises
    OSError where nothing can be written.
    """
    keep_freed_memory()  # as every actor and worker does
    methods = {key_of(job): job for job in jobs}
    share = seconds / max(1, len(servings) + len(methods))
    place = None if store is None else _existing(store)
    with _threads_kept(), tempfile.TemporaryDirectory(prefix=".tutelage-", dir=place) as folder:
        return Speeds(
            teachers={s.recording.teacher: teacher_speed(s, seconds=share) for s in servings},
            students={
                key: student_speed(job, Path(folder) / str(index), seconds=share)
                for index, (key, job) in enumerate(methods.items())
            },
            store=store_speed(Path(folder)) if store is not None else None,
            process_s=process_seconds(),
        )


def teacher_speed(serving: Serving, *, seconds: float) -> float:
    """Images/s of one actor with its threads: rendered, answered, encoded."""
    threads = num_threads(serving.placement.cpus)
    teacher = Teacher(serving.recipe, serving.inputs, num_threads=threads)
    most = min(serving.recipe.batch_size, len(teacher.data.train))

    def answer(count: int) -> None:
        teacher.rows(np.arange(count), 0, serving.recording.signals)

    count = min(_SMALL, most)
    answer(count)
    # Few images at a time take longer each: as many as an actor's batch, unless that is too slow.
    while count < most and 4 * seconds_of(lambda count=count: answer(count)) < seconds / 2:
        count = min(4 * count, most)
        answer(count)  # the first of its size is slower
    return count / typical(lambda: answer(count), seconds=seconds)


def student_speed(job: StudentJob, folder: Path, *, seconds: float) -> StudentSpeed:
    """Images/s of one worker: rendered, signals gathered, trained on; and evaluated."""
    workers = job.experiment.workers
    if workers.most:
        torch.set_num_threads(num_threads(workers.cpus))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(job.experiment.data)
    job, task = _shortened(job, data, device)
    job = replace(job, recordings=tuple(_drawn(r, folder, task) for r in job.recordings))
    learner = build_learner(
        job,
        data,
        Compute(
            device,
            bfloat16=workers.precision == "bfloat16",
            channels_last=workers.channels_last,
        ),
    )
    source = signal_source(job)
    watch = _Watch()
    try:
        fit(task, learner, source, watch)  # the first epoch is slower
        watch.epochs.clear()
        typical(lambda: fit(task, learner, source, watch), seconds=seconds)
    finally:
        source.close()
    few = first_samples(data.test, _EVALUATED)
    model = learner.inference_model()
    evaluate(model, few, device=device)
    evaluated = seconds_of(lambda: evaluate(model, few, device=device))
    images = task.plan.steps_per_epoch * task.plan.batch_size
    return StudentSpeed(
        images / statistics.median(watch.epochs),
        len(few) / evaluated,
        sum(p.numel() for p in learner.student.parameters() if p.requires_grad),
    )


def first_samples(split: Split, count: int) -> Split:
    """The first samples of a split, or all."""
    return Split(split.images, split.labels[:count], split.rows[:count], f"first {count}")


def _shortened(job: StudentJob, data: Data, device: torch.device) -> tuple[StudentJob, Fit]:
    """The job with one worker's share of a batch, from a store, and an epoch of a few steps."""
    experiment = job.experiment
    share = max(1, experiment.schedule.batch_size // max(1, experiment.workers.most))
    row = sum(make_codec(s.codec, s.shape).row_bytes for r in job.recordings for s in r.signals)
    steps = min(_STEPS, len(data.train) // share, max(1, _DRAWN_BYTES // max(1, row * share)))
    schedule = experiment.schedule.model_copy(update={"epochs": 1, "batch_size": share})
    changes: dict[str, Any] = {"schedule": schedule}
    if experiment.signals.source == "served":
        changes["signals"] = experiment.signals.model_copy(update={"source": "cached"})
    short: Experiment = experiment.model_copy(update=changes)
    plan = BatchPlan(
        split=first_samples(data.train, share * steps),
        views=experiment.views,
        batch_size=share,
        num_passes=1,
        seed=job.seed,
        plan_seed=experiment.signals.plan_seed,
    )
    # A small rate: drawn signals teach nothing, and must not make a loss diverge.
    lr = experiment.optimizer.lr / 1000
    task = Fit(plan, schedule, lr, first_samples(data.validation, 0), device)
    return replace(job, experiment=short), task


def _drawn(recording: Recording, folder: Path, task: Fit) -> Recording:
    """A pass of drawn numbers in the place of what a teacher would answer."""
    identity = replace(recording.identity, num_samples=len(task.plan.split))
    drawn = replace(recording, root=str(folder), mirror=None, identity=identity)
    draw = np.random.default_rng(0)
    for signal in recording.signals:
        codec = make_codec(signal.codec, signal.shape)
        column = drawn.store.column(signal.spec, codec)
        for index in range(identity.num_parts):
            count = len(identity.rows_of(index))
            values = draw.standard_normal((count, *signal.shape), dtype=np.float32)
            column.write(PartId(0, index), codec.encode(values), error=0.0)
    return drawn


@final
class _Watch:
    """An observer that keeps what epochs take, in seconds."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_step(self, step: int, report: LossReport, *, lr: float) -> None: ...

    def on_weights(self, epoch: int, tables: Mapping[str, WeightTable]) -> None: ...

    def on_epoch(
        self,
        epoch: int,  # noqa: ARG002
        row: Mapping[str, float],
        learner: Learner,  # noqa: ARG002
    ) -> None:
        self.epochs.append(row["seconds/epoch"])


@contextmanager
def _threads_kept() -> Generator[None]:
    """Give torch its threads back afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _existing(root: str) -> Path | None:
    """The nearest folder of a store that is there; None for a URL: temporary files stand for it."""
    if is_remote(root):
        return None
    place = Path(root).absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place if os.access(place, os.W_OK) else None
