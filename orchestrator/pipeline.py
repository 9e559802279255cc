"""The main job: teachers, their records, students, and the comparison, from one experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill.config import AUTO, Experiment
from distill.datasets import Data, load_data
from distill.loading import ConfigError
from distill.methods import MethodConfig
from orchestrator.codecs import make_codec
from orchestrator.display import Bar, Display
from orchestrator.identity import canonical_json
from orchestrator.preflight import checkpoint_path
from orchestrator.preparation import (
    PreparedTeacher,
    facts,
    file_accuracy,
    filed_accuracy,
    method_recordings,
    prepare_teachers,
)
from orchestrator.recording import Recording, RecordingReport, record, teacher_actor
from orchestrator.runs import RunFolder
from orchestrator.session import ray_session
from orchestrator.students import (
    EpochEvent,
    Event,
    FailureEvent,
    StudentError,
    StudentJob,
    train_students,
)
from orchestrator.teacher_training import auto_checkpoint, train_teachers, untrained
from orchestrator.teachers import InputPlan, PartReport


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What the main job leaves behind."""

    runs: tuple[RunFolder, ...]
    failures: tuple[str, ...]  # one line a run that diverged


def run_experiment(experiment: Experiment, display: Display) -> Outcome:
    """Do whatever is not done yet of an experiment. Raises ConfigError, StudentError, OSError."""
    data = load_data(experiment.data)
    _check_sizes(experiment, data)
    relay = _Relay(display, experiment)
    with ray_session():
        if missing := untrained(experiment, data):
            display.note(f"teachers to train first: {', '.join(t.name for t in missing)}")
            train_teachers(experiment, data, on_event=relay.on_event)
            if relay.failures:
                raise StudentError("\n".join(relay.failures))
        prepared = prepare_teachers(experiment, data, _checkpoints(experiment, data))
        plan = InputPlan(experiment.data, experiment.views, experiment.signals.plan_seed)
        _measure_teachers(prepared, plan, data)
        if experiment.signals.source == "cached" and prepared:
            _record(experiment, prepared, plan, display)
        jobs = student_jobs(experiment, prepared, data)
        finished = [job for job in jobs if RunFolder(job.folder).finished]
        if finished:
            display.note(f"{len(finished)} of {len(jobs)} runs are already finished; kept")
        train_students(
            jobs, experiment.workers, storage=experiment.output.root, on_event=relay.on_event
        )
    runs = tuple(RunFolder(job.folder) for job in jobs)
    return Outcome(tuple(run for run in runs if run.finished), tuple(relay.failures))


def student_jobs(
    experiment: Experiment, prepared: Sequence[PreparedTeacher], data: Data
) -> list[StudentJob]:
    """Every run of the experiment: method by method, seed by seed."""
    jobs: list[StudentJob] = []
    for method in experiment.methods:
        recordings, recipes = method_recordings(experiment, method, prepared)
        digest = _digest(experiment, method, recordings, data)
        for seed in experiment.seeds:
            folder = RunFolder.at(
                experiment.output.root,
                experiment=experiment.name,
                method=method.name,
                digest=digest,
                seed=seed,
            )
            jobs.append(
                StudentJob(
                    experiment=experiment,
                    method=method,
                    digest=digest,
                    seed=seed,
                    folder=folder.path.resolve(),
                    recordings=recordings,
                    recipes=recipes if experiment.signals.source != "cached" else (),
                    facts={teacher.name: facts(teacher, data) for teacher in prepared},
                    signal_bytes=sum(_num_bytes(r, experiment.num_passes) for r in recordings),
                    title=f"{method.name} seed {seed}",
                )
            )
    return jobs


def _digest(
    experiment: Experiment, method: MethodConfig, recordings: Sequence[Recording], data: Data
) -> str:
    """Names a configuration by what changes its outcome: 8 hex digits.

    Folders, names and the teachers' actors do not; the number of workers does, by rounding.
    """
    whole = experiment.as_dict()
    fields = {name: whole[name] for name in ("views", "student", "optimizer", "schedule")} | {
        "method": method.model_dump(mode="json"),
        "workers": whole["workers"] | {"cpus": None},
        "splits": [data.train.fingerprint, data.validation.fingerprint, data.test.fingerprint],
    }
    if recordings:
        fields["passes"] = [experiment.num_passes, experiment.signals.source]
        fields["signals"] = [
            [r.identity.key, [[str(s.spec), s.codec] for s in r.signals]] for r in recordings
        ]
    text = canonical_json(fields, where="experiment")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _num_bytes(recording: Recording, num_passes: int) -> int:
    row = sum(make_codec(s.codec, s.shape).row_bytes for s in recording.signals)
    return row * recording.identity.num_samples * num_passes


def _check_sizes(experiment: Experiment, data: Data) -> None:
    if experiment.schedule.batch_size > len(data.train):
        raise ConfigError(
            f"schedule.batch_size: {experiment.schedule.batch_size} is more than the "
            f"{len(data.train)} training samples; set it lower"
        )


def _checkpoints(experiment: Experiment, data: Data) -> dict[str, Path]:
    return {
        teacher.name: auto_checkpoint(teacher, experiment, data)
        if teacher.checkpoint == AUTO
        else checkpoint_path(teacher) or Path()
        for teacher in experiment.teachers
    }


def _measure_teachers(prepared: Sequence[PreparedTeacher], plan: InputPlan, data: Data) -> None:
    """Every teacher's test accuracy, once ever."""
    import ray

    unknown = [teacher for teacher in prepared if filed_accuracy(teacher, data) is None]
    actors = [teacher_actor(teacher.serving, plan) for teacher in unknown]
    answers = [actor.test_accuracy.remote() for actor in actors]
    for teacher, actor, answer in zip(unknown, actors, answers, strict=True):
        file_accuracy(teacher, data, ray.get(answer))
        ray.kill(actor)


def _record(
    experiment: Experiment,
    prepared: Sequence[PreparedTeacher],
    plan: InputPlan,
    display: Display,
) -> None:
    bars: list[Bar] = []

    def on_start(num_images: int, report: RecordingReport) -> None:
        for message in report.damaged:
            display.note(message)
        if num_images:
            if report.parts_found:
                display.note(f"signals: {report.parts_found} parts are on disk; kept")
            bars.append(display.bar("recording", num_images, "images"))
        else:
            display.note(f"signals: all {report.parts_found} parts are on disk; nothing to record")

    def on_part(_: PartReport, report: RecordingReport) -> None:
        bars[0].update(report.images)

    report = record(
        [teacher.serving for teacher in prepared],
        plan,
        range(experiment.num_passes),
        on_start=on_start,
        on_part=on_part,
        on_wait=lambda who: display.note(f"signals: {who} is recording them; waiting"),
    )
    names = {t.serving.recording.identity.key: t.name for t in prepared}
    for (key, spec), error in report.errors.items():
        display.note(f"  {names[key]} {spec}: largest rounding error {error:.1e}")


@final
class _Relay:
    """Turns workers' events into bars, one a run."""

    def __init__(self, display: Display, experiment: Experiment) -> None:
        self.display = display
        self.bars: dict[str, Bar] = {}
        self.failures: list[str] = []
        self.epochs = {
            f"teacher {teacher.name}": teacher.training.schedule.epochs
            for teacher in experiment.teachers
        }
        self.default_epochs = experiment.schedule.epochs

    def on_event(self, event: Event) -> None:
        match event:
            case EpochEvent(job, epoch, row):
                if job not in self.bars:
                    total = self.epochs.get(job, self.default_epochs)
                    self.bars[job] = self.display.bar(job, total, "epochs", done=epoch - 1)
                validation = row.get("accuracy/validation")
                text = f"loss {row['loss/total']:.3f}"
                if validation is not None:
                    text += f", validation {validation:.1%}"
                self.bars[job].update(epoch, text)
            case FailureEvent(job, reason):
                self.failures.append(f"{job}: {reason}")
                self.display.note(f"{job} FAILED: {reason}")
