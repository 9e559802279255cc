"""What a job has still to do: teachers to train, parts to record, runs to train. Starts no Ray.

Everything is found as ``train`` finds it, but nothing is written, locked or compared byte by byte:
a part that is there counts as recorded, though ``train`` may find it damaged.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from distill.config import Experiment, Teacher
from distill.datasets import Data
from distill.models.base import Normalized
from distill.models.checkpoints import save_weights
from orchestrator.codecs import make_codec
from orchestrator.jobs import next_epoch, student_jobs
from orchestrator.pipeline import check_mirror, checkpoint_files
from orchestrator.preflight import check_data
from orchestrator.preparation import PreparedTeacher, filed_accuracy, prepare_teachers
from orchestrator.recording import Recording, Serving, merge
from orchestrator.retention import Demand
from orchestrator.runs import RunFolder
from orchestrator.store import PartId
from orchestrator.students import StudentJob, TeacherFacts
from orchestrator.teacher_networks import build_network, own_data
from orchestrator.teacher_training import training_job, untrained

_DRAWN = 64  # images that fresh weights' statistics are taken from


@final
@dataclass(frozen=True, slots=True)
class Records:
    """What of one teacher's records is there, and what is not."""

    serving: Serving
    passes: tuple[int, ...]  # that unfinished runs read, first needed first
    missing: tuple[PartId, ...]  # with some signal not recorded
    missing_bytes: int
    found_bytes: int

    @property
    def teacher(self) -> str:
        return self.serving.recording.teacher

    @property
    def num_parts(self) -> int:
        """Of all the passes."""
        return self.serving.recording.identity.num_parts * len(self.passes)

    @property
    def images(self) -> int:
        """Inputs to be answered."""
        identity = self.serving.recording.identity
        return sum(len(identity.rows_of(part.part_index)) for part in self.missing)

    @property
    def missing_passes(self) -> tuple[int, ...]:
        """Those of which anything is missing."""
        found = {part.pass_index for part in self.missing}
        return tuple(index for index in self.passes if index in found)


@final
@dataclass(frozen=True, slots=True)
class Agenda:
    """A job's work, found without doing any."""

    experiment: Experiment
    data: Data
    teachers: tuple[PreparedTeacher, ...]  # untrained ones with drawn weights
    trainings: tuple[StudentJob, ...]  # of teachers that are not on file
    unmeasured: tuple[str, ...]  # teachers whose test accuracy is not on file
    records: tuple[Records, ...]  # by weights: teachers that share them are recorded once
    jobs: tuple[StudentJob, ...]  # every run, finished ones included

    @property
    def todo(self) -> tuple[StudentJob, ...]:
        """The runs that are not finished."""
        return tuple(job for job in self.jobs if not RunFolder(job.folder).finished)

    @property
    def is_done(self) -> bool:
        """Whether ``train`` would find nothing to do."""
        return not (self.todo or self.trainings or self.unmeasured)


def agenda(experiment: Experiment) -> Agenda:
    """What is left to do of a checked experiment. Raises ConfigError as ``train`` would."""
    data = check_data(experiment)
    missing = untrained(experiment, data)
    teachers = _prepared(experiment, data, missing)
    check_mirror(experiment, teachers)
    jobs = student_jobs(experiment, teachers, data, facts_of=_facts)
    names = {teacher.name for teacher in missing}
    return Agenda(
        experiment=experiment,
        data=data,
        teachers=teachers,
        trainings=tuple(training_job(teacher, experiment, data) for teacher in missing),
        unmeasured=tuple(
            t.name for t in teachers if t.name in names or filed_accuracy(t, data) is None
        ),
        records=_records(experiment, teachers, jobs),
        jobs=tuple(jobs),
    )


def _prepared(
    experiment: Experiment, data: Data, missing: Sequence[Teacher]
) -> tuple[PreparedTeacher, ...]:
    """Teachers as ``train`` loads them; drawn weights stand for those not trained yet.

    Drawn weights make keys and runs of their own, so nothing is ever found of them.
    """
    files = checkpoint_files(experiment, data)
    with tempfile.TemporaryDirectory(prefix="tutelage-plan-") as folder:
        drawn = {t.name: _draw(t, data, Path(folder) / f"{t.name}.safetensors") for t in missing}
        return prepare_teachers(experiment, data, files | drawn)


def _draw(teacher: Teacher, data: Data, file: Path) -> Path:
    """Fresh weights, with BatchNorm's statistics of real images: finite at any depth."""
    own = own_data(teacher, data)
    with torch.random.fork_rng(devices=()):
        network = build_network(teacher.arch, teacher.options, own, taps=teacher.taps)
    model = Normalized(network, mean=own.mean.tolist(), std=own.std.tolist())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what is seen
    with torch.no_grad():
        model(torch.from_numpy(data.train.gather(np.arange(min(_DRAWN, len(data.train))))[0]))
    save_weights(network, file)
    return file


def _facts(teacher: PreparedTeacher, data: Data) -> TeacherFacts:
    """What is known of a teacher; accuracy is NaN until it is measured."""
    accuracy = filed_accuracy(teacher, data)
    return TeacherFacts(math.nan if accuracy is None else accuracy, teacher.parameters)


def _records(
    experiment: Experiment, teachers: Sequence[PreparedTeacher], jobs: Sequence[StudentJob]
) -> tuple[Records, ...]:
    """What unfinished runs read from the store; empty where none does."""
    readers = [job for job in jobs if job.recordings and not RunFolder(job.folder).finished]
    if experiment.signals.source != "cached" or not readers:
        return ()
    demand = Demand(
        {job.title: next_epoch(job) for job in readers},
        num_epochs=experiment.schedule.epochs,
        num_passes=experiment.num_passes,
    )
    passes = tuple(demand.passes())
    return tuple(_of_teacher(serving, passes) for serving in merge(t.serving for t in teachers))


def _of_teacher(serving: Serving, passes: tuple[int, ...]) -> Records:
    recording = serving.recording
    rank = {index: place for place, index in enumerate(passes)}
    parts: set[PartId] = set()
    missing_bytes = found_bytes = 0
    for signal in recording.signals:
        codec = make_codec(signal.codec, signal.shape)
        missing = recording.store.column(signal.spec, codec).missing(passes)
        parts.update(missing)
        here = codec.row_bytes * _num_rows(recording, missing)
        missing_bytes += here
        found_bytes += codec.row_bytes * recording.identity.num_samples * len(passes) - here
    ordered = sorted(parts, key=lambda part: (rank[part.pass_index], part.part_index))
    return Records(serving, passes, tuple(ordered), missing_bytes, found_bytes)


def _num_rows(recording: Recording, parts: Sequence[PartId]) -> int:
    return sum(len(recording.identity.rows_of(part.part_index)) for part in parts)


def epochs_left(job: StudentJob) -> range:
    """The epochs that a run has still to train."""
    return range(next_epoch(job), job.experiment.schedule.epochs)


def row_bytes_of(job: StudentJob) -> int:
    """Bytes of records that a run reads for an image; 0 where it reads none."""
    if job.experiment.signals.source != "cached":
        return 0
    return sum(make_codec(s.codec, s.shape).row_bytes for r in job.recordings for s in r.signals)
