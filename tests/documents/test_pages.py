"""Every page's commands that train, search, plan, record, probe or export, run as they stand.

In the page's order and in a folder of its own, with little data, one epoch and few trials. What
only reads is run by tests/test_docs.py, the README's recipes beside this file, ``ray`` by
tests/cluster, ``make`` by CI.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import onnxruntime
import pytest

from distill import run
from distill.config import AUTO
from distill.datasets import DataConfig, describe
from distill.loading import load_experiment
from orchestrator.inventory import list_recordings
from orchestrator.runs import find_runs
from tests.doc_commands import redirected
from tests.doc_files import ROOT, blocks, commands
from tests.tutorial_world import CLASSES, SIZE, TUTORIALS, phone

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

STARTED = ("train", "tune", "plan", "cache", "verify", "probe", "export")
PHONE = "docs/tutorials/phone.md"
ELSEWHERE = ("README.md", PHONE)
TRIALS_FOR_ONE = 8  # of a page's


def lines_of(name: str) -> list[list[str]]:
    """A page's calls of ``tutelage`` that leave something behind, as words behind that name."""
    here = [block for block in blocks("sh") if str(block.page.relative_to(ROOT)) == name]
    found = [words for block in here for words in commands(block)]
    called = [words[1:] for words in found if words[0] == "tutelage"]
    return [words for words in called if words[0] in STARTED or ">" in words]


def pages() -> list[str]:
    """Those that have some."""
    written = sorted({str(block.page.relative_to(ROOT)) for block in blocks("sh")})
    return [name for name in written if name not in ELSEWHERE and lines_of(name)]


@final
@dataclass
class World:
    """A folder in which a page is followed, and what makes its experiments small."""

    folder: Path
    signals: Path
    arrays: Path
    phone: Sequence[str]

    def call(self, words: Sequence[str]) -> None:
        """One command of the page, made small; it must succeed."""
        words, target = redirected(words)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed) if target else contextlib.nullcontext():
            assert run.main(self.small(list(words))) == 0, " ".join(words)
        if target is not None:
            target.write_text(printed.getvalue())

    def small(self, words: list[str]) -> list[str]:
        """The words, and behind them what shrinks the work: of two settings the last counts."""
        words = [word.replace("/mnt/", f"{self.folder}/mnt/") for word in words]
        match words:
            case ["export", named, *rest]:
                return ["export", str(self.run_like(named)), *rest]
            case ["cache", "--remove", _]:
                return ["cache", "--remove", list_recordings(self.signals)[0].key]
            case ["show", *_] | [_, "--list" | "--cluster", *_]:
                return words
            case [command, experiment, *_]:
                settings = [("-s", text) for text in self.overrides(experiment)]
                words += [word for setting in settings for word in setting]
                return words + few(command, words)
        raise AssertionError(words)

    def overrides(self, experiment: str) -> Sequence[str]:
        if experiment == "phone.yaml":
            return self.phone
        data = {"name": "arrays", "file": str(self.arrays)}
        found = [f"data.{field}={value}" for field, value in data.items()]
        found += ["schedule.epochs=1", "schedule.batch_size=32", "seeds=[0]"]
        found += ["workers.count=0", "workers.cpus=1"]
        for index, teacher in enumerate(load_experiment(experiment).teachers):
            if teacher.checkpoint == AUTO:
                place = f"teachers[{index}].training"
                found += [f"{place}.data={json.dumps(data)}", f"{place}.schedule.epochs=1"]
        return found

    def run_like(self, named: str) -> Path:
        """The run that was trained here, for one that the page names by some digest."""
        root, experiment, configuration, _ = Path(named).parts
        if not Path(root, experiment).exists():
            self.call(["train", experiment])
        runs = {found.identity["method"]: found.path for found in find_runs(Path(root, experiment))}
        return runs[configuration.partition("-")[0]]


def few(command: str, words: Sequence[str]) -> list[str]:
    """Less to measure or to search."""
    if command == "plan":
        return ["--seconds", "0.1"]
    if command == "tune":
        trials = int(words[words.index("--trials") + 1])
        return ["--trials", str(max(1, trials // TRIALS_FOR_ONE)), "--seeds", "1"]
    return []


@pytest.fixture(scope="module")
def arrays(cache: Path, fashion: Path) -> Path:
    """The tests' little data, with the names of its classes."""
    names = describe(DataConfig(name="fashion_mnist_mini")).class_names
    file = cache / "named.npz"
    with np.load(fashion) as content:
        np.savez(file, class_names=list(names), **content)
    return file


@pytest.fixture
def world(cache: Path, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TUTORIALS)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for block in blocks("yaml"):
        if block.text.startswith("nodes:"):
            (tmp_path / "cluster-spec.yaml").write_text(block.text)
    return World(tmp_path, cache / "signals", arrays, phone(tmp_path))


def test_pages_are_found() -> None:
    assert {"docs/methods/kd.md", "docs/results.md", "docs/tutorials/method.md"} <= set(pages())
    assert len(pages()) > 20


@pytest.mark.parametrize("page", pages())
def test_a_page_can_be_followed(page: str, world: World) -> None:
    for words in lines_of(page):
        world.call(words)


def test_what_the_phone_gets_runs_without_our_code(world: World) -> None:
    test_a_page_can_be_followed(PHONE, world)
    session = onnxruntime.InferenceSession(str(world.folder / "phone" / "model.onnx"))
    images = np.zeros((2, 3, SIZE, SIZE), np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    assert logits.shape == (2, 3)
    card = json.loads((world.folder / "phone" / "card.json").read_text())
    assert card["interface"]["class_names"] == list(CLASSES)
