"""What the driver shows and logs while teachers record and students train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from orchestrator.display import Bar, Display
from orchestrator.recording import RecordingReport
from orchestrator.students import EpochEvent, Event, FailureEvent, ResizeEvent, StartEvent


@final
class RecordingProgress:
    """One bar for all teachers, and their throughput in TensorBoard."""

    def __init__(self, display: Display, events: Path) -> None:
        self._display = display
        self._events = events
        self._bar: Bar | None = None
        self._writer = None

    def on_wait(self, holder: str) -> None:
        self._display.note(f"signals: {holder} records the same teachers; waiting for it")

    def on_start(self, report: RecordingReport) -> None:
        for message in report.damaged:
            self._display.note(message)
        if not report.images_wanted:
            self._display.note(
                f"signals: all {report.parts_found} parts are on disk; nothing to record"
            )
            return
        if report.parts_found:
            self._display.note(f"signals: {report.parts_found} parts are on disk and whole; kept")
        self._bar = self._display.bar("recording", report.images_wanted, "images")

    def on_stall(self, teachers: Sequence[str]) -> None:
        self._display.note(
            f"teachers: no node has room for an actor of {', '.join(teachers)}, so nothing is "
            "recorded, and students wait for it; start a node, or, where students hold the room, "
            "end this command and give it again: what does not fit side by side takes turns"
        )

    def on_restart(self, teacher: str, process: str) -> None:
        self._display.note(
            f"teacher {teacher}: {process} died and was replaced; its parts were asked for again"
        )

    def on_part(self, report: RecordingReport) -> None:
        assert self._bar is not None
        rates = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in sorted(report.rates.items()))
        self._bar.update(
            report.images,
            f"{rates}; {_counted(report.busy, 'actor')} busy, "
            f"{_counted(report.queued, 'part')} queued",
        )
        self._log(report)

    def finish(self, report: RecordingReport) -> None:
        """Say what the codecs cost in exactness, and close the events."""
        for (name, spec), error in sorted(report.errors.items()):
            self._display.note(f"  {name} {spec}: largest error of its codec {error:.1e}")
        if self._writer is not None:
            self._writer.close()

    def _log(self, report: RecordingReport) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._events))
        for name, rate in report.rates.items():
            self._writer.add_scalar(f"recording/images_per_s/{name}", rate, report.images)
        self._writer.add_scalar("recording/actors_busy", report.busy, report.images)
        self._writer.add_scalar("recording/parts_queued", report.queued, report.images)


@final
class TrainingProgress:
    """One bar a run; remembers which runs failed, and why."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._bars: dict[str, Bar] = {}
        self.failures: list[str] = []

    def on_event(self, event: Event) -> None:
        match event:
            case StartEvent(job, num_epochs, start_epoch, _):
                if job not in self._bars:  # a worker that was started anew begins again
                    self._bars[job] = self._display.bar(job, num_epochs, "epochs", done=start_epoch)
            case EpochEvent(job, epoch, row):
                text = f"loss {row['loss/total']:.3f}"
                if "accuracy/validation" in row:
                    text += f", validation {row['accuracy/validation']:.1%}"
                if row["wait/signals_s"] >= 1:
                    text += f", waited {row['wait/signals_s']:.0f} s for signals"
                self._bars[job].update(epoch, text)
            case ResizeEvent():
                self._display.note(_resized(event))
            case FailureEvent(job, reason):
                self.failures.append(f"{job}: {reason}")
                self._display.note(f"{job} FAILED: {reason}")


def _resized(event: ResizeEvent) -> str:
    """``kd seed 0: 2 workers → 1 after epoch 3: node 10.0.0.2 was lost``."""
    if event.before is None:
        return f"{event.job}: {_workers(event.after)} at first, {event.reason}"
    when = f"after epoch {event.epoch}" if event.epoch else "before the first epoch's end"
    text = f"{event.job}: {_workers(event.before)} → {event.after} {when}: {event.reason}"
    return text if event.after else f"{text}; waiting for room"


def _workers(count: int) -> str:
    return _counted(count, "worker")


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"
