"""What a person sees: on a terminal, and where there is none."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import display
from orchestrator.display import Display
from orchestrator.progress import RecordingProgress
from orchestrator.recording import RecordingReport

ROOT = Path(__file__).resolve().parents[1]


def plain(stream: io.StringIO) -> list[str]:
    """The lines, with times and rates replaced."""
    text = re.sub(r"\d+:\d\d", "TIME", stream.getvalue())
    return re.sub(r"[\d.,]+ (images/s|s/image)", "RATE", text).splitlines()


def test_without_a_terminal_there_is_a_line_at_both_ends() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        bar = shown.bar("record", 5000, "images")
        for done in range(0, 5001, 100):
            bar.update(done, "busy")
    assert plain(stream) == ["record: 5,000 images", "record: 5,000 images in TIME, RATE, busy"]
    assert "\x1b" not in stream.getvalue()


def test_one_epoch_is_no_epochs() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        shown.bar("kd", 1, "epochs").update(1)
    first, last = stream.getvalue().splitlines()
    assert first == "kd: 1 epoch"
    assert last.startswith("kd: 1 epoch in ")


def test_lines_in_between_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_INTERVAL_S", 0.1)
    stream = io.StringIO()
    begun_s = time.monotonic()
    with Display(stream) as shown:
        bar = shown.bar("record", 100, "images")
        for done in range(1, 31):
            bar.update(done)
            time.sleep(0.01)
    between = [line for line in plain(stream) if "/100 images, RATE, TIME left" in line]
    assert 1 <= len(between) <= (time.monotonic() - begun_s) / 0.1


def test_one_actor_is_no_actors(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        progress = RecordingProgress(shown, tmp_path)
        progress.on_start(RecordingReport(images_wanted=10))
        progress.on_part(RecordingReport(images=10, busy=1, queued=2))
        progress.finish(RecordingReport())
    assert plain(stream)[-1].endswith("1 actor busy, 2 parts queued")


def test_notes_are_printed_as_they_are() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        shown.note("teachers[1]: [bold]no markup[/bold]")
    assert stream.getvalue() == "teachers[1]: [bold]no markup[/bold]\n"


def test_a_resumed_step_counts_only_what_it_did() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        bar = shown.bar("kd", 30, "epochs", done=29)
        time.sleep(0.05)
        bar.update(30)
    first, last = stream.getvalue().splitlines()
    assert first == "kd: 30 epochs, from 29"
    rate = re.search(r"([\d.]+) (s/epoch|epochs/s)", last)
    assert rate is not None
    assert float(rate[1]) <= 20  # one epoch in 0.05 s, not thirty


def test_a_step_with_nothing_to_do_ends_at_once() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:
        shown.bar("record", 0, "images").update(0)
    assert plain(stream) == ["record: 0 images", "record: 0 images in TIME"]


def test_an_exception_leaves_the_last_state_and_passes() -> None:
    stream = io.StringIO()

    def interrupted() -> None:
        with Display(stream) as shown:
            shown.bar("kd", 30, "images").update(7, "loss 1.5")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert plain(stream)[-1] == "kd: stopped at 7/30 images in TIME, RATE, loss 1.5"


def test_threads_do_not_mix_their_lines() -> None:
    stream = io.StringIO()
    with Display(stream) as shown:

        def work(name: str) -> None:
            for _ in range(50):
                shown.note(name * 20)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(stream.getvalue().splitlines()) == sorted([c * 20 for c in "abcd"] * 50)


def run_on_terminal(code: str, *, columns: int = 80) -> str:
    """What a terminal receives from a Python program."""
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=terminal,
        stderr=terminal,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(terminal)
    received = b""
    try:
        while chunk := os.read(main, 65536):
            received += chunk
    except OSError:  # Linux' way to say that the terminal's last user has gone
        pass
    program.wait()
    os.close(main)
    return received.decode()


def screen(received: str) -> list[str]:
    """The lines that stay, after the few control codes that rich uses."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", received):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(up[1])
        elif part != "\r" and not part.startswith("\x1b"):
            lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


PROGRAM = """
import logging, sys, time
from orchestrator.display import Display
logging.basicConfig(format="%(message)s")
with Display() as shown:
    bars = [shown.bar(f"kd seed {i}", 3, "epochs") for i in range(3)]
    for epoch in range(1, 3):
        for bar in bars:
            bar.update(epoch, f"loss {epoch}.5, validation 61.2 %")
        time.sleep(0.3)
    shown.note("a note [x]")
    print("to stdout")
    logging.warning("from a logger")
    bars[0].update(3, "loss 3.5")
"""


def test_a_terminal_keeps_every_line_and_gets_its_cursor_back() -> None:
    received = run_on_terminal(PROGRAM + "    raise RuntimeError('boom')")
    lines = screen(received)
    assert lines[:3] == ["a note [x]", "to stdout", "from a logger"]
    assert [line for line in lines if line.startswith("kd seed 0: 3 epochs in 0:0")]
    stopped = [line for line in lines if "stopped at 2/3 epochs" in line]
    assert [line[:9] for line in stopped] == ["kd seed 1", "kd seed 2"]
    assert lines[-1] == "RuntimeError: boom"
    assert not [line for line in lines if "━" in line]
    assert received.rindex("\x1b[?25h") > received.rindex("\x1b[?25l")


def test_unfinished_lines_are_not_lost() -> None:
    lines = screen(
        run_on_terminal(
            "import sys\nfrom orchestrator.display import Display\nwith Display():\n"
            " print('out', end=''); print('err', end='', file=sys.stderr)"
        )
    )
    assert lines == ["out", "err"]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_bars_fit_the_terminal(columns: int) -> None:
    received = run_on_terminal(PROGRAM, columns=columns)
    drawn = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", received)
    bars = [line for line in re.split(r"[\r\n]+", drawn) if re.match(r"kd seed \d ", line)]
    assert bars
    assert max(len(bar) for bar in bars) <= columns
    assert columns < 80 or any("2/3 epochs" in bar and "validation 61.2 %" in bar for bar in bars)


@contextmanager
def stderr_is(stream: io.TextIOBase) -> Iterator[None]:
    old, sys.stderr = sys.stderr, stream
    try:
        yield
    finally:
        sys.stderr = old


def test_log_handlers_return_to_the_real_stream() -> None:
    main, terminal = os.openpty()
    stream = os.fdopen(terminal, "w")
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("tests.display")
    logger.addHandler(handler)
    with stderr_is(stream), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        with Display():
            assert handler.stream is not stream
        assert handler.stream is stream
    logger.removeHandler(handler)
    stream.close()
    os.close(main)
