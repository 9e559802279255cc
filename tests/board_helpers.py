"""Real runs to look at, ``tutelage board``, and a browser without a screen."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.datasets import load_data
from orchestrator.jobs import student_jobs
from orchestrator.preparation import file_accuracy
from orchestrator.students import train_students
from tests.helpers import prepare, two_teachers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# What a page shows once its data have come, by the tab's name in the address.
READY = {
    "hparams": "tf-hparams-table-view .table-cell",
    "custom_scalars": "tf-custom-scalar-multi-line-chart-card .matches-text",
    "scalars": "tf-scalar-card",
    "images": "tf-image-loader img",
    "timeseries": "scalar-card",
}
ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0  # a busy machine with two cores


def train_runs(fashion: Path, folder: Path) -> Path:
    """Three real runs of two epochs, two of which weigh teachers; returns their folder."""
    experiment = two_teachers(
        fashion,
        folder,
        {
            "method": {"name": "ebkd", "temperature": 4.0},
            "baselines": [{"name": "ebkd", "temperature": 2.0}, "ce"],
            "schedule.epochs": 2,
            "signals.source": "local",
        },
    )
    data, teachers = load_data(experiment.data), prepare(experiment)
    for teacher in teachers:
        file_accuracy(teacher, data, 0.5)
    jobs = student_jobs(experiment, teachers, data)
    train_students(jobs, experiment.workers, storage=folder, on_event=lambda _: None)
    return experiment.output.root / experiment.name


@contextmanager
def board(
    *arguments: str, cwd: Path = ROOT, variables: Mapping[str, str] | None = None
) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """The address at which ``tutelage board`` serves, and its process; ends with the block."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "distill" / "run.py"), "board", *arguments],
        cwd=cwd,
        env=os.environ | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if found := re.match(r"TensorBoard: +(http\S+)", line):
                    yield found[1], process
                    break
            else:
                raise AssertionError(f"no address: {said}")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)


def ask(url: str, path: str, posted: Mapping[str, Any] | None = None, **query: str) -> Any:
    """What TensorBoard answers, from JSON."""
    address = f"{url}data/{path}?{urllib.parse.urlencode(query)}"
    data = None if posted is None else json.dumps(posted).encode()
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def wait_for(is_so: Callable[[], bool]) -> None:
    """Ask until the answer is yes."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, "it did not come about in time"
        time.sleep(0.5)


@contextmanager
def chromium() -> Generator[Browser]:
    """Debian's Chromium, without a screen."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path is not None, "no browser here; install Debian's: apt-get install chromium"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def look(browser: Browser, url: str, tab: str, *, width: int = 1400, height: int = 860) -> Page:
    """One of TensorBoard's pages, once its data have come, with lines as they are, not smoothed."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(f"{url}#{tab}&_smoothingWeight=0")
    page.locator(READY[tab]).first.wait_for()
    page.wait_for_load_state("networkidle")
    return page
