"""The blueprint of a run: what its job and its data say of the networks to build."""

from __future__ import annotations

from distill.blueprint import MODEL_FILE, Blueprint, TeacherOutline
from distill.config import Network
from distill.datasets import Data
from orchestrator.runs import RunFolder, write_atomically
from orchestrator.students import StudentJob


def blueprint_of(job: StudentJob, data: Data, *, num_workers: int) -> Blueprint:
    """What the job's student and method are built from, on each of ``num_workers`` workers."""
    experiment, own = job.experiment, job.normalization
    return Blueprint(
        num_classes=data.num_classes,
        class_names=data.class_names,
        in_channels=data.train.images.shape[1],
        image_size=data.train.images.shape[-1],
        mean=own.mean if own else tuple(data.mean.tolist()),
        std=own.std if own else tuple(data.std.tolist()),
        student=experiment.student,
        method=job.method,
        batch_size=experiment.schedule.batch_size // num_workers,
        teachers=_outlines(job),
    )


def keep_blueprint(run: RunFolder, blueprint: Blueprint) -> None:
    """Write it beside the run's checkpoints: what their networks are built from."""
    text = blueprint.model_dump_json(indent=2) + "\n"
    write_atomically(run.path / MODEL_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))


def _outlines(job: StudentJob) -> dict[str, TeacherOutline]:
    signals = {
        recording.teacher: {str(signal.spec): signal.shape for signal in recording.signals}
        for recording in job.recordings
    }
    outlines: dict[str, TeacherOutline] = {}
    for teacher in job.experiment.teachers:
        if teacher.name not in job.taps:
            continue
        last = job.classifiers.get(teacher.name)
        outlines[teacher.name] = TeacherOutline(
            network=Network(arch=teacher.arch, options=teacher.options, taps=teacher.taps),
            taps=dict(job.taps[teacher.name]),
            signals=signals.get(teacher.name),
            classifier=(last.weight.shape[0], last.weight.shape[1]) if last else None,
            classifier_bias=last is not None and last.bias is not None,
        )
    return outlines
