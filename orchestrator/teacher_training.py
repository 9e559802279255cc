"""``checkpoint: auto``: a teacher trained through the same engine, once ever, filed by identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from distill.config import AUTO, Experiment, Network, Teacher
from distill.datasets import Data, cache_root, load_data
from distill.methods import config_class
from orchestrator.identity import canonical_json
from orchestrator.run_checkpoints import student_state
from orchestrator.run_locks import in_turn
from orchestrator.runs import RunFolder
from orchestrator.students import Event, StudentJob, train_students
from orchestrator.teacher_networks import build_network, own_data


def auto_checkpoint(teacher: Teacher, experiment: Experiment, data: Data) -> Path:
    """The file that an automatic teacher has, or will have once it is trained.

    ``data`` is the experiment's, which a teacher may be trained apart from.
    """
    fields = {
        "arch": teacher.arch,
        "options": teacher.options,
        "normalization": teacher.normalization and teacher.normalization.model_dump(),
        "training": teacher.training.model_dump(mode="json", exclude={"data"}),
        "views": experiment.views.fingerprint_fields(),
        "split": own_data(teacher, data).train.fingerprint,
    }
    digest = hashlib.sha256(canonical_json(fields, where="teacher").encode()).hexdigest()[:20]
    return cache_root(experiment.data) / "teachers" / f"{teacher.name}-{digest}.safetensors"


def untrained(experiment: Experiment, data: Data) -> list[Teacher]:
    """The automatic teachers whose weights are not on file."""
    return [
        teacher
        for teacher in experiment.teachers
        if teacher.checkpoint == AUTO and not auto_checkpoint(teacher, experiment, data).is_file()
    ]


def training_job(teacher: Teacher, experiment: Experiment, data: Data) -> StudentJob:
    """A teacher as a student without teachers."""
    path = auto_checkpoint(teacher, experiment, data)
    digest, seed = path.stem.rpartition("-")[2][:8], teacher.training.seed
    alone = experiment.model_copy(
        update={
            "name": f"{experiment.name}-teachers",
            "data": teacher.training.data or experiment.data,
            "student": Network(arch=teacher.arch, options=teacher.options),
            "method": config_class("ce")(),
            "baselines": (),
            "teachers": (),
            "optimizer": teacher.training.optimizer,
            "schedule": teacher.training.schedule,
        }
    )
    return StudentJob(
        experiment=alone,
        method=alone.method,
        digest=digest,
        seed=seed,
        folder=RunFolder.at(
            path.parent, experiment=path.stem, method="ce", digest=digest, seed=seed
        ).path,
        recordings=(),
        recipes=(),
        facts={},
        signal_bytes=0,
        title=f"teacher {teacher.name}",
        normalization=teacher.normalization,
    )


def train_teachers(
    experiment: Experiment,
    data: Data,
    *,
    on_event: Callable[[Event], None],
    tell: Callable[[str], None],
) -> None:
    """Train and file every automatic teacher that is not on file.

    One that another process trains is waited for, and ``tell`` told.
    """
    jobs = _jobs(experiment, data)
    with in_turn({job.folder: job.title for job in jobs.values()}, tell):
        jobs = _jobs(experiment, data)  # what others have filed meanwhile is none any more
        train_students(
            list(jobs.values()),
            experiment.workers,
            storage=cache_root(experiment.data) / "teachers",
            on_event=on_event,
        )
        for path, job in jobs.items():
            if RunFolder(job.folder).finished:
                _file(path, job)


def _jobs(experiment: Experiment, data: Data) -> dict[Path, StudentJob]:
    """The training of each automatic teacher that is not on file, by the file it will have."""
    return {
        auto_checkpoint(teacher, experiment, data): training_job(teacher, experiment, data)
        for teacher in untrained(experiment, data)
    }


def _file(path: Path, job: StudentJob) -> None:
    """The last weights, as safetensors; written last, so its presence means trained."""
    from distill.models.checkpoints import save_weights

    network = build_network(
        job.experiment.student.arch, job.experiment.student.options, load_data(job.experiment.data)
    )
    student = student_state(RunFolder(job.folder).checkpoint("last"))
    network.load_state_dict(
        {name.removeprefix("network."): value for name, value in student.items()}
    )
    save_weights(network, path)
