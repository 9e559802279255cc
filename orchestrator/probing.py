"""``tutelage probe``: every stage of every teacher recorded once, probed, tabled and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch

from distill.config import Experiment
from distill.datasets import Data, load_data
from distill.loading import ConfigError
from distill.probes import HELD_OUT, ProbeTable, probe_accuracy
from distill.signals import SignalSpec, Taps
from distill.taps import known_taps, stages_of
from orchestrator.codecs import make_codec
from orchestrator.display import Display
from orchestrator.fleet import Fleet
from orchestrator.maintenance import recorded_passes
from orchestrator.pipeline import checkpoint_files, train_missing
from orchestrator.preflight import signal_codec
from orchestrator.preparation import PreparedTeacher, prepare_teachers
from orchestrator.probe_report import heat_map, log_table
from orchestrator.probe_tables import (
    Marks,
    marks_of,
    probing_experiment,
    table_file,
    teacher_digest,
)
from orchestrator.recording import Recording
from orchestrator.room import check_room
from orchestrator.runs import write_atomically
from orchestrator.session import ray_session
from orchestrator.shared_folders import check_shared_folders
from orchestrator.teacher_training import untrained
from orchestrator.teachers import RecordedSignal


@final
@dataclass(frozen=True, slots=True)
class Probed:
    """What ``probe`` leaves behind."""

    table: ProbeTable
    marks: Marks
    groups: tuple[tuple[int, int], ...]  # (stage, teacher): what the table chooses
    file: Path
    picture: Path


def probe(experiment: Experiment, display: Display, *, output: Path | None = None) -> Probed:
    """Record pooled stages of the training images as they are, and train a probe on each.

    What is recorded already is read, not asked again. The table is written to ``table_file``, its
    picture beside it, and both to TensorBoard's events in ``probes``, below the folder of runs.
    Raises ConfigError, StudentError, RecordingError, OSError.
    """
    asked, file = probing_experiment(experiment), table_file(experiment, output)
    data = load_data(experiment.data)
    if len(data.train) < HELD_OUT:
        raise ConfigError(
            f"data: {len(data.train)} training samples are too few to probe; give {HELD_OUT} or "
            "more"
        )
    events = experiment.output.root / experiment.name / "probes"
    with ExitStack() as reading:
        with ray_session(), Fleet() as fleet:
            check_shared_folders(asked)
            check_room(experiment, display.note, students=bool(untrained(experiment, data)))
            train_missing(experiment, data, display)  # under the views that the teachers are for
            prepared = prepare_teachers(asked, data, checkpoint_files(experiment, data))
            servings = [
                replace(teacher.serving, recording=_pooled_stages(teacher, asked))
                for teacher in prepared
            ]
            passes, folder = asked.num_passes, events / "recording"
            recorded = recorded_passes(servings, fleet, passes, display, events=folder)
            reading.enter_context(recorded)
        table = _table([serving.recording for serving in servings], data, display)
    taps = {teacher.name: teacher.taps for teacher in prepared}
    return _publish(table, experiment, taps, file, events)


def _pooled_stages(teacher: PreparedTeacher, asked: Experiment) -> Recording:
    """The teacher's recording with the mean over positions of each of its stages."""
    signals: list[RecordedSignal] = []
    try:
        stages = stages_of(teacher.taps, network=f"teacher '{teacher.name}'")
    except ValueError as error:  # taps that turn out to be no maps
        raise ConfigError(str(error)) from None
    for tap in stages:
        shape, spec = teacher.taps[tap], SignalSpec(tap, "gap")
        assert shape is not None, "a prepared teacher's taps have shapes"
        signals.append(RecordedSignal(spec, signal_codec(asked, spec), shape[:1]))
    return replace(teacher.serving.recording, signals=tuple(signals))


def _table(recordings: Sequence[Recording], data: Data, display: Display) -> ProbeTable:
    bar = display.bar("probing", sum(len(r.signals) for r in recordings), "stages")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = torch.from_numpy(np.asarray(data.train.labels)).to(device)
    accuracy: dict[str, dict[str, float]] = {}
    done = 0
    for recording in recordings:
        row = accuracy[recording.teacher] = {}
        for signal in recording.signals:
            codec = make_codec(signal.codec, signal.shape)
            rows = recording.store.column(signal.spec, codec).open_pass(0)
            features = torch.from_numpy(np.array(codec.decode(rows), np.float32)).to(device)
            found = probe_accuracy(features, labels, num_classes=data.num_classes)
            row[signal.spec.tap] = found
            done += 1
            bar.update(done, f"{recording.teacher} {signal.spec.tap}: {found:.1%}")
    return ProbeTable(
        accuracy=accuracy,
        teachers={r.teacher: teacher_digest(r.identity) for r in recordings},
        split=data.train.fingerprint,
    )


def _publish(
    table: ProbeTable,
    experiment: Experiment,
    taps: Mapping[str, Taps],
    file: Path,
    events: Path,
) -> Probed:
    student = known_taps(experiment.student.arch, experiment.student.taps)
    groups = tuple(table.best_groups(taps, student))
    marks = marks_of(groups, taps, student)
    write_atomically(file, lambda draft: draft.write_text(table.to_json(), encoding="utf-8"))
    picture = file.with_suffix(".png")
    figure = heat_map(table, marks, title=experiment.name)
    write_atomically(picture, lambda draft: figure.savefig(draft, format="png"))
    log_table(table, figure, events)
    return Probed(table, marks, groups, file, picture)
