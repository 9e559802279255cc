"""What a person sees while something runs: bars on a terminal, plain lines anywhere else.

On a terminal, each step in progress has a bar that becomes one line when it ends, so that any
number of trainings fits. Elsewhere (a file, a pipe, CI) there are lines only, no control codes.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO, final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_INTERVAL_S = 15.0


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@final
@dataclass(eq=False)
class _Step:
    """How far one step is. ``first`` was done before it began (a resumed run's epochs)."""

    name: str
    total: int
    unit: str
    first: int
    started_s: float = field(default_factory=time.monotonic)
    done: int = field(init=False)
    text: str = ""

    def __post_init__(self) -> None:
        self.done = self.first

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    def rate(self) -> str:
        """``1,024 images/s``, or ``8.1 s/epoch`` below one a second; empty at first."""
        done = self.done - self.first
        if done <= 0 or self.elapsed_s <= 0:
            return ""
        if done >= self.elapsed_s:
            return f"{done / self.elapsed_s:,.0f} {self.unit}/s"
        return f"{self.elapsed_s / done:,.1f} s/{self._units(1)}"

    def left(self) -> str:
        """``0:36 left``, from the mean rate so far; empty at first and at the end."""
        done = self.done - self.first
        if done <= 0 or self.done >= self.total:
            return ""
        return f"{_duration(self.elapsed_s / done * (self.total - self.done))} left"

    def beginning(self) -> str:
        start = f", from {self.first:,}" if self.first else ""
        return f"{self.name}: {self.total:,} {self._units(self.total)}{start}"

    def share(self) -> str:
        return f"{self.done:,}/{self.total:,} {self._units(self.total)}"

    def middle(self) -> str:
        return self._join(self.share(), self.rate(), self.left(), self.text)

    def end(self) -> str:
        complete = self.done >= self.total
        share = f"{self.total:,}" if complete else f"stopped at {self.done:,}/{self.total:,}"
        took = f"{share} {self._units(self.total)} in {_duration(self.elapsed_s)}"
        return self._join(took, self.rate(), self.text)

    def _units(self, count: int) -> str:
        return self.unit.removesuffix("s") if count == 1 else self.unit

    def _join(self, *parts: str) -> str:
        return f"{self.name}: " + ", ".join(part for part in parts if part)


class _View(Protocol):
    """How steps are shown. Called by one thread at a time."""

    def begin(self, step: _Step) -> None: ...
    def change(self, step: _Step) -> None: ...
    def end(self, step: _Step) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


@final
class _Lines:
    """Plain lines: a step's beginning and end, and between them one in LINE_INTERVAL_S."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_s: dict[_Step, float] = {}

    def begin(self, step: _Step) -> None:
        self._shown_s[step] = time.monotonic()
        self.note(step.beginning())

    def change(self, step: _Step) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s[step] >= LINE_INTERVAL_S:
            self._shown_s[step] = now_s
            self.note(step.middle())

    def end(self, step: _Step) -> None:
        del self._shown_s[step]
        self.note(step.end())

    def note(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        pass


@final
class _Bars:
    """Rich bars below, everything that is printed meanwhile above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._stream = stream
        self._console = Console(
            file=stream, force_terminal=True, force_interactive=True, highlight=False
        )
        ours = stream is sys.stderr
        self._progress = _progress(
            self._console, redirect_stderr=ours, redirect_stdout=ours and sys.stdout.isatty()
        )
        self._tasks: dict[_Step, TaskID] = {}
        self._progress.start()
        self._moved = _move_log_handlers(stream, sys.stderr) if ours else []

    def begin(self, step: _Step) -> None:
        self._tasks[step] = self._progress.add_task(
            step.name, total=step.total, completed=step.done, step=step
        )

    def change(self, step: _Step) -> None:
        self._progress.update(self._tasks[step], completed=step.done)

    def end(self, step: _Step) -> None:
        self._progress.remove_task(self._tasks.pop(step))
        self.note(step.end())

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        # Rich's stand-ins for the standard streams hold an unfinished line back until flushed.
        sys.stdout.flush()
        sys.stderr.flush()
        self._progress.stop()
        for handler in self._moved:
            handler.setStream(self._stream)


def _progress(console: Console, *, redirect_stderr: bool, redirect_stdout: bool) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    def column(show: Callable[[_Step], str], style: str) -> ProgressColumn:
        class Words(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(show(task.fields["step"]), style=style)

        return Words(table_column=Column(no_wrap=True, overflow="ellipsis"))

    return Progress(
        column(lambda step: step.name, "bold"),
        column(_Step.share, ""),
        column(_Step.left, "cyan"),
        column(lambda step: step.text or step.rate(), ""),
        # The bar comes last and takes what width is left: on a narrow terminal it goes first.
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
        redirect_stderr=redirect_stderr,
        redirect_stdout=redirect_stdout,
    )


def _move_log_handlers(old: TextIO, new: TextIO) -> list[logging.StreamHandler[TextIO]]:
    """Point log handlers that hold ``old`` at ``new``: they would write through the bars."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    moved: list[logging.StreamHandler[TextIO]] = []
    for logger in (logging.getLogger(), *loggers):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)
                moved.append(handler)
    return moved


@final
class Bar:
    """One step's handle; may be updated from any thread."""

    def __init__(self, display: Display, step: _Step) -> None:
        self._display = display
        self._step = step

    def update(self, done: int, text: str = "") -> None:
        """Say that ``done`` of the total are done, and what else is worth seeing (a loss)."""
        self._display.advance(self._step, done, text)

    def end(self, text: str = "") -> None:
        """End the step where it is, for it goes no further; ``text`` says why."""
        self._display.end(self._step, text)


@final
class Display:
    """Shows any number of steps at once, on standard error or on ``stream``.

    A context manager: however it is left, every step's last state stays as a line and the
    terminal is as it was.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._open: list[_Step] = []
        self._view: _View | None = None

    def __enter__(self) -> Display:
        stream = self._stream or sys.stderr
        live = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
        self._view = _Bars(stream) if live else _Lines(stream)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            view = self._opened()
            try:
                for step in self._open:
                    view.end(step)
            finally:
                self._open.clear()
                view.close()
                self._view = None

    def bar(self, name: str, total: int, unit: str, *, done: int = 0) -> Bar:
        """Begin a step of ``total`` units ("images", "epochs"); ends when all are done.

        ``done`` were done before, by a run that this one resumes; rates do not count them.
        """
        step = _Step(name, total, unit, done)
        with self._lock:
            self._opened().begin(step)
            self._open.append(step)
            self.advance(step, done, "")
        return Bar(self, step)

    def advance(self, step: _Step, done: int, text: str) -> None:
        """Bar.update, which see; updates of a step that has ended are ignored."""
        with self._lock:
            if step not in self._open:
                return
            step.done, step.text = done, text
            if done < step.total:
                self._opened().change(step)
            else:
                self._open.remove(step)
                self._opened().end(step)

    def end(self, step: _Step, text: str) -> None:
        """Bar.end, which see; nothing happens to a step that has ended."""
        with self._lock:
            if step in self._open:
                step.text = text or step.text
                self._open.remove(step)
                self._opened().end(step)

    def note(self, text: str) -> None:
        """Print ``text`` as it is, above the bars."""
        with self._lock:
            self._opened().note(text)

    def _opened(self) -> _View:
        assert self._view is not None, "a Display shows something only inside its with-block"
        return self._view
