"""The main job: teachers, their records, students, and the comparison, from one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from distill.config import Experiment
from distill.datasets import Data
from distill.loading import ConfigError
from orchestrator.display import Display
from orchestrator.fleet import Fleet, fits
from orchestrator.jobs import bytes_of_a_pass, next_epoch, student_jobs
from orchestrator.layout import StoreError
from orchestrator.preflight import check_data
from orchestrator.preparation import (
    PreparedTeacher,
    doubt,
    file_accuracy,
    filed_accuracy,
    method_recordings,
    prepare_teachers,
)
from orchestrator.probe_tables import file_tables
from orchestrator.progress import RecordingProgress, TrainingProgress
from orchestrator.recording import Recorder, RecordingError, ask
from orchestrator.retention import Demand, Retention, Watch
from orchestrator.room import check_room, shares_of_workers
from orchestrator.run_locks import alone
from orchestrator.runs import RunFolder
from orchestrator.session import ray_session
from orchestrator.shared_folders import check_shared_folders
from orchestrator.students import Event, StudentError, StudentJob, train_students
from orchestrator.teacher_checks import checkpoint_path
from orchestrator.teacher_networks import check_networks
from orchestrator.teacher_training import auto_checkpoint, train_teachers, untrained
from orchestrator.teachers import AnswerError
from orchestrator.waiting import told_of_waiting

# What can end an experiment for good, each with a message that says why.
FAILURES = (StudentError, RecordingError, StoreError, AnswerError, OSError)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What the main job leaves behind."""

    runs: tuple[RunFolder, ...]
    failures: tuple[str, ...]  # one line a run that diverged


def run_experiment(experiment: Experiment, display: Display) -> Outcome:
    """Do whatever is not done yet of an experiment.

    Raises ConfigError, StudentError, OSError; of these, BlockingIOError while another process
    trains a run of it.
    """
    data = check_data(experiment)
    finished = _if_finished(experiment, data)
    if finished is not None:
        display.note(f"all {len(finished)} runs are finished; nothing to record, nothing to train")
        return Outcome(finished, ())
    progress = TrainingProgress(display)
    with (
        ray_session(),
        Fleet(workers=shares_of_workers(experiment)) as fleet,
    ):
        check_shared_folders(experiment)
        check_room(experiment, display.note)
        prepared = ready_teachers(experiment, data, fleet, display)
        check_mirror(experiment, prepared)
        jobs = student_jobs(experiment, prepared, data)
        with alone(jobs) as todo:
            if len(todo) < len(jobs):
                display.note(f"{len(jobs) - len(todo)} of {len(jobs)} runs are finished; kept")
            file_tables(experiment, {teacher.name: teacher.taps for teacher in prepared}, jobs)
            _train(experiment, todo, prepared, fleet, display, progress)
    runs = tuple(RunFolder(job.folder) for job in jobs)
    return Outcome(tuple(run for run in runs if run.finished), tuple(progress.failures))


def _if_finished(experiment: Experiment, data: Data) -> tuple[RunFolder, ...] | None:
    """The runs, if there is nothing left to do: found out without starting Ray."""
    if untrained(experiment, data):
        return None
    prepared = prepare_teachers(experiment, data, checkpoint_files(experiment, data))
    if all(filed_accuracy(teacher, data) is not None for teacher in prepared):
        runs = tuple(RunFolder(job.folder) for job in student_jobs(experiment, prepared, data))
        if all(run.finished for run in runs):
            return runs
    check_mirror(experiment, prepared)
    return None


def check_mirror(experiment: Experiment, prepared: Sequence[PreparedTeacher]) -> None:
    """Raise ConfigError for a mirror too small for one pass of all that some run reads at once."""
    max_bytes = experiment.signals.mirror_bytes
    if experiment.signals.source != "cached" or max_bytes is None:
        return
    for method in experiment.methods:
        recordings, _ = method_recordings(experiment, method, prepared)
        needed = 0 if method.resident else bytes_of_a_pass(recordings)
        if needed > max_bytes:
            raise ConfigError(
                f"signals.mirror_bytes: {max_bytes} is too small: '{method.name}' reads {needed} "
                f"bytes a pass from all its teachers, and at once; set it to {needed} or more"
            )


def ready_teachers(
    experiment: Experiment, data: Data, fleet: Fleet, display: Display
) -> tuple[PreparedTeacher, ...]:
    """Teachers trained where that is asked for, loaded, and their test accuracy known."""
    train_missing(experiment, data, display)
    prepared = prepare_teachers(experiment, data, checkpoint_files(experiment, data))
    _measure(prepared, fleet, data)
    for text in filter(None, (doubt(teacher, data) for teacher in prepared)):
        display.note(text)
    return prepared


def train_missing(experiment: Experiment, data: Data, display: Display) -> None:
    """Train the automatic teachers that are not on file. Raises StudentError."""
    if missing := untrained(experiment, data):
        check_networks(experiment, data)  # what is wrong with others is told before hours of work
        display.note(f"teachers to train first: {', '.join(t.name for t in missing)}")
        progress = TrainingProgress(display)
        train_teachers(experiment, data, on_event=progress.on_event, tell=display.note)
        if progress.failures:
            raise StudentError("\n".join(progress.failures))


def _train(
    experiment: Experiment,
    jobs: Sequence[StudentJob],
    prepared: Sequence[PreparedTeacher],
    fleet: Fleet,
    display: Display,
    progress: TrainingProgress,
) -> None:
    """Students and the source of their signals: recorded before or beside them, live, or local."""
    source = experiment.signals.source
    storage = experiment.output.root

    def train(jobs: Sequence[StudentJob], demand: Watch | None = None) -> None:
        def on_event(event: Event) -> None:
            try:
                progress.on_event(event)
            finally:  # the recorder waits for it
                if demand is not None:
                    demand.on_event(event)

        waiting_for = [] if experiment.workers.is_elastic else shares_of_workers(experiment)
        with told_of_waiting(waiting_for, display.note):
            train_students(
                jobs, experiment.workers, storage=storage, on_event=on_event, held=fleet.held
            )

    if source == "served":
        if not fits([t.serving.placement for t in prepared], workers=shares_of_workers(experiment)):
            raise ConfigError(
                "signals.source: 'served' teachers answer while students train, so both must fit "
                "side by side; lower teachers' cpus or workers.cpus, or set source: cached"
            )
        needed = {recording.key for job in jobs for recording in job.recordings}
        actors = {
            teacher.serving.recording.key: fleet.actors(teacher.serving)
            for teacher in prepared
            if teacher.serving.recording.key in needed
        }
        fleet.keep_only(actors)
        train([job.with_actors(actors) for job in jobs])
    elif source == "cached" and any(job.recordings for job in jobs):
        _train_beside_recorder(experiment, jobs, prepared, fleet, display, train)
    else:
        fleet.keep_only(())  # actors that measured accuracy are here still
        train(jobs)


def _train_beside_recorder(
    experiment: Experiment,
    jobs: Sequence[StudentJob],
    prepared: Sequence[PreparedTeacher],
    fleet: Fleet,
    display: Display,
    train: Any,
) -> None:
    """Record ahead of the students where both fit the cluster; else first the one, then the other.

    What the recorder met is raised before what the students met: they only waited for it.
    """
    readers = [job for job in jobs if job.recordings]
    demand = Demand(
        {job.title: next_epoch(job) for job in readers},
        num_epochs=experiment.schedule.epochs,
        num_passes=experiment.num_passes,
    )
    servings = [teacher.serving for teacher in prepared]
    window = experiment.signals.retain == "window"
    retention = Retention([serving.recording for serving in servings], demand)
    observer = RecordingProgress(display, experiment.output.root / experiment.name / "recording")
    ahead = experiment.signals.ahead
    recorder = Recorder(
        servings,
        fleet,
        demand.passes(),
        observer,
        may_record=(lambda p: p in demand.within(ahead)) if window else (lambda _: True),
    )
    together = fits([s.placement for s in servings], workers=shares_of_workers(experiment))
    if window and not together:
        raise ConfigError(
            "signals.retain: 'window' deletes passes while students train, so teachers and "
            "students must fit side by side; lower teachers' cpus or workers.cpus, or set "
            "retain: all"
        )
    retention.register()
    try:
        if together:
            recorder.start()
        else:
            display.note(
                "teachers and students do not fit side by side; recording first, then training"
            )
            recorder.run()
        train(jobs, Watch(demand, retention if window else None))
    except BaseException as error:
        recorder.finish()
        if recorder.error is not None:
            raise recorder.error from error
        raise
    finally:
        recorder.finish()
        retention.release()
        observer.finish(recorder.report)


def checkpoint_files(experiment: Experiment, data: Data) -> dict[str, Path]:
    """The file of each teacher's weights; an automatic teacher's may not be there yet."""
    return {
        teacher.name: checkpoint_path(teacher) or auto_checkpoint(teacher, experiment, data)
        for teacher in experiment.teachers
    }


def _measure(prepared: Sequence[PreparedTeacher], fleet: Fleet, data: Data) -> None:
    """Every teacher's test accuracy, once ever: of all at once where they fit, else in turn."""
    unknown = [teacher for teacher in prepared if filed_accuracy(teacher, data) is None]
    if not fits([teacher.serving.placement for teacher in prepared], workers=()):
        for teacher in unknown:
            one = replace(teacher.serving.placement, num_actors=1)
            alone = replace(teacher.serving, placement=one)
            answer = fleet.actors(alone)[0].test_accuracy.remote()
            file_accuracy(teacher, data, ask(answer, teacher.name))
            fleet.release(alone.recording.key)
        return
    answers = [fleet.actors(teacher.serving)[0].test_accuracy.remote() for teacher in unknown]
    for teacher, answer in zip(unknown, answers, strict=True):
        file_accuracy(teacher, data, ask(answer, teacher.name))
