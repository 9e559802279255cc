"""Looking after an experiment's records: made ahead of time, and verified."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill.config import Experiment
from distill.datasets import load_data
from distill.loading import ConfigError
from orchestrator.display import Display
from orchestrator.fleet import Fleet
from orchestrator.pipeline import checkpoint_files, ready_teachers
from orchestrator.preparation import PreparedTeacher, prepare_teachers, store_root
from orchestrator.progress import RecordingProgress
from orchestrator.recording import Recorder, RecordingReport, Serving, merge
from orchestrator.retention import Demand, Retention
from orchestrator.room import check_room
from orchestrator.session import ray_session
from orchestrator.shared_folders import check_shared_folders
from orchestrator.teacher_training import untrained
from orchestrator.verification import Verification, columns_of, verify_servings


@final
@dataclass(frozen=True, slots=True)
class Recorded:
    """What ``record_ahead`` has done."""

    root: str
    parts: int  # written now
    kept: int  # on disk before, and whole
    num_bytes: int  # of all signals of the experiment's teachers


def record_ahead(experiment: Experiment, display: Display) -> Recorded:
    """Train automatic teachers, and record every pass of all that the experiment's methods need.

    Raises ConfigError where nothing would be read from records, RecordingError and OSError.
    """
    _check_reads_records(experiment)
    data = load_data(experiment.data)
    with ray_session(), Fleet() as fleet:
        check_shared_folders(experiment)
        check_room(experiment, display.note, students=bool(untrained(experiment, data)))
        prepared = ready_teachers(experiment, data, fleet, display)
        servings = _servings(prepared)
        recordings = [serving.recording for serving in servings]
        num_passes = experiment.num_passes
        events = experiment.output.root / experiment.name / "recording"
        with recorded_passes(servings, fleet, num_passes, display, events=events) as report:
            kept = report.parts_found
    num_parts = sum(r.identity.num_parts for r in recordings) * num_passes
    num_bytes = sum(c.bytes_on_disk() for r in recordings for c in columns_of(r).values())
    return Recorded(store_root(experiment), num_parts - kept, kept, num_bytes)


@contextmanager
def recorded_passes(
    servings: Sequence[Serving], fleet: Fleet, num_passes: int, display: Display, *, events: Path
) -> Generator[RecordingReport]:
    """Record what is missing of the first ``num_passes``, and declare them as needed until the end.

    What reads them does so inside: nobody deletes them meanwhile. Throughput goes to ``events``.
    Raises RecordingError and OSError.
    """
    demand = Demand({"cache": 0}, num_epochs=num_passes, num_passes=num_passes)
    retention = Retention([serving.recording for serving in servings], demand)
    observer = RecordingProgress(display, events)
    recorder = Recorder(servings, fleet, range(num_passes), observer)
    retention.register()
    try:
        try:
            report = recorder.run()
        finally:
            observer.finish(recorder.report)
        yield report
    finally:
        retention.release()


def verify(experiment: Experiment, display: Display, *, num_samples: int) -> Verification:
    """Check every part of an experiment's records, and a sample of them against the teachers.

    Raises ConfigError where there can be no records, BlockingIOError while somebody records.
    """
    _check_reads_records(experiment)
    data = load_data(experiment.data)
    if missing := untrained(experiment, data):
        names = ", ".join(f"'{teacher.name}'" for teacher in missing)
        raise ConfigError(
            f"teachers: {names} not trained yet, so nothing is recorded; "
            "`cache` trains them and records"
        )
    prepared = prepare_teachers(experiment, data, checkpoint_files(experiment, data))
    return verify_servings(_servings(prepared), display, num_samples=num_samples)


def _check_reads_records(experiment: Experiment) -> None:
    if experiment.signals.source != "cached":
        raise ConfigError(
            f"signals.source: '{experiment.signals.source}' reads no records; set "
            "signals.source=cached"
        )


def _servings(prepared: Sequence[PreparedTeacher]) -> list[Serving]:
    if not prepared:
        raise ConfigError(
            "method: no method of the experiment needs a teacher, so there is nothing to record; "
            "set one that does, as in method=kd"
        )
    return merge(teacher.serving for teacher in prepared)
