"""A plan in numbers and as tables: what there is to do, how long it takes, and what limits it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.forecast import Forecast
from orchestrator.text_tables import NONE, TextTable

if TYPE_CHECKING:
    from orchestrator.planning import Agenda
    from orchestrator.students import StudentJob


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 10 s``, ``5.2 h``, ``12 d``: what a person would say."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def size(num_bytes: float) -> str:
    """Three digits and a decimal prefix up to peta: ``1.73 MB``."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {prefix}B"
    return f"{num_bytes:.0f} B"


def teachers_table(agenda: Agenda, found: Forecast) -> TextTable:
    """A row a teacher's weights: on file or to be trained, what of its records is missing."""
    loads = {load.name: load for load in found.load.teachers}
    untrained = {job.title.removeprefix("teacher ") for job in agenda.trainings}
    rows: list[list[str]] = []
    recorded = {record.teacher for record in agenda.records}
    for record in agenda.records:
        load = loads.get(record.teacher)
        alone = load.images / (load.images_per_s * load.actors) if load else 0.0
        signals = record.serving.recording.signals
        rows.append(
            [
                record.teacher,
                "to train" if record.teacher in untrained else "on file",
                " ".join(f"{s.spec}.{s.codec}" for s in signals),
                f"{len(record.missing):,} of {record.num_parts:,}",
                size(record.missing_bytes),
                size(record.found_bytes),
                f"{load.images_per_s:,.0f}" if load else NONE,
                duration(alone),
            ]
        )
    rows += [
        [t.name, "to train" if t.name in untrained else "on file", *[NONE] * 6]
        for t in agenda.teachers
        if t.name not in recorded
    ]
    headings = ["teacher", "weights", "signals", "parts to record", "to write", "found"]
    return TextTable(
        [*headings, "images/s", "alone"],
        [rows],
        "images/s: of one actor; alone: recording, were there no other teacher",
        yielding=("signals", "found", "to write"),
    )


def runs_table(agenda: Agenda, found: Forecast) -> TextTable:
    """A row a run: finished, or what is left of it."""
    loads = {load.title: load for load in found.load.runs}
    rows: list[list[str]] = []
    for job in agenda.jobs:
        load = loads.get(job.title)
        if load is None:
            rows.append([job.title, "finished", *[NONE] * 3])
            continue
        rows.append(
            [
                job.title,
                _state(job, load.epochs),
                f"{len(load.epochs)}",
                f"{load.images_per_s:,.0f}",
                duration(found.estimate.runs[job.title]),
            ]
        )
    return TextTable(
        ["run", "", "epochs", "images/s", "time"], [rows], "images/s: of all its workers"
    )


def _state(job: StudentJob, epochs: range) -> str:
    if not epochs.start:
        return "to train"
    return f"goes on after epoch {epochs.start} of {job.experiment.schedule.epochs}"


def summary(found: Forecast, *, num_trials: int | None = None) -> list[str]:
    """Lines: the phases, the total, what limits it, and what a cluster adds to that."""
    one, load = found.estimate, found.load
    how = "beside training" if load.side_by_side else "before training"
    lines = [f"start            {duration(one.start_s + load.workers_s)}"]
    lines += [f"{name:16} {duration(seconds)}" for name, seconds in load.before_s.items()]
    if load.teachers:
        written = size(load.record_bytes)
        lines.append(f"recording        {duration(one.recording_s)}, {how}; {written} to write")
    if load.runs:
        waiting = f", {duration(one.waiting_s)} of it waiting for records" if one.waiting_s else ""
        lines.append(f"training         {duration(one.training_s)}{waiting}")
    most = f"; most of it: {one.limit}" if one.total_s else ""
    lines.append(f"total            {duration(one.total_s)}{most}")
    if num_trials:
        sweep = duration(found.sweep_s(num_trials))
        lines.append(f"a sweep          {sweep}: {num_trials} trials, {found.room} at a time")
    if not math.isinf(found.site.network_bytes_s):
        lines.append(f"storage          {size(load.store_bytes)} of records")
        lines.append(f"network          {size(found.network_bytes)} of records")
        lines.append(f"cost             {found.cost:,.0f}, all nodes for the whole time")
    return lines + [f"does not fit: {text}" for text in found.misfits]


def scale_table(forecasts: Sequence[tuple[int, Forecast]], *, num_trials: int | None) -> TextTable:
    """A row a size of the cluster: phases, storage, network, cost and what limits it."""
    rows = [_scale_row(count, found, num_trials) for count, found in forecasts]
    headings = ["nodes", "GPUs", "recording", "training", "total"]
    if num_trials:
        headings.append(f"{num_trials} trials")
    return TextTable(
        [*headings, "records", "network", "cost", "most of it"],
        [rows],
        "most of it: what the job would gain most from having more of",
        yielding=("network", "records", "cost"),
    )


def _scale_row(count: int, found: Forecast, num_trials: int | None) -> list[str]:
    one = found.estimate
    sweep = [duration(found.sweep_s(num_trials))] if num_trials else []
    return [
        f"{count:,}",
        f"{found.site.capacity:,.0f}",
        duration(one.recording_s),
        duration(one.training_s),
        duration(one.total_s),
        *sweep,
        size(found.load.store_bytes),
        size(found.network_bytes),
        f"{found.cost:,.0f}",
        "does not fit" if found.misfits else one.limit,
    ]


def as_json(found: Forecast, *, num_trials: int | None = None) -> dict[str, Any]:
    """The plan as plain values: seconds, bytes, images/s."""
    one, load = found.estimate, found.load
    values: dict[str, Any] = {
        "start_s": one.start_s + load.workers_s,
        "before_s": dict(load.before_s),
        "recording_s": one.recording_s,
        "training_s": one.training_s,
        "waiting_s": one.waiting_s,
        "total_s": one.total_s,
        "runs_s": dict(one.runs),
        "teachers_images_per_s": {t.name: t.images_per_s for t in load.teachers},
        "runs_images_per_s": {run.title: run.images_per_s for run in load.runs},
        "bytes_to_write": load.record_bytes,
        "bytes_of_records": load.store_bytes,
        "bytes_of_network": found.network_bytes,
        "cost": found.cost,
        "limit": one.limit,
        "misfits": list(found.misfits),
    }
    if num_trials:
        values["sweep_s"] = found.sweep_s(num_trials)
    return values
