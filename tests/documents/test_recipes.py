"""README's recipes, whole: the page's own file and commands, with little data and one epoch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from distill import run
from distill.models.checkpoints import save_weights
from orchestrator.runs import find_runs
from tests.doc_files import ROOT, Block, blocks, commands
from tests.networks import build
from tests.tutorial_world import CLASSES, write_photos

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cache")]

README = ROOT / "README.md"
SIZE = 32
SHORT = {"schedule": "{epochs: 1, batch_size: 8}", "workers.count": "0", "seeds": "[0]"}
# In place of the page's: its student is exported elsewhere, by tests/test_export_files.py.
STUDENT, SMALL = "cnn_xs", ("squeezenet1_1", "shufflenet_v2_x0_5")


def page_blocks(kind: str, having: str) -> list[Block]:
    return [block for block in blocks(kind) if block.page == README and having in block.text]


def recipe(having: str) -> list[list[str]]:
    """The commands of the one block of README that holds ``having``."""
    (block,) = page_blocks("sh", having)
    return commands(block)


def call(words: list[str], *more: str, **overrides: str) -> None:
    """A command of the page in this process, with ``more`` behind what the page has."""
    name, *arguments = words
    assert name == "tutelage"
    given = [text for path, value in overrides.items() for text in ("-s", f"{path}={value}")]
    assert run.main([*arguments, *given, *more]) == 0


def furnish(folder: Path) -> dict[str, str]:
    """What lies beside the page's ``trams.yaml``, and what makes it small."""
    (block,) = page_blocks("yaml", "name: trams")
    (folder / "trams.yaml").write_text(block.text)
    page = yaml.safe_load(block.text)
    write_photos(folder / page["data"]["root"])
    overrides = {
        "data.image_size": str(SIZE),
        "views.padding": "2",
        "student.arch": STUDENT,
        **SHORT,
    }
    for index, teacher in enumerate(page["teachers"]):
        overrides[f"teachers[{index}].cpus"] = "0.5"  # all fit at one time
        if teacher["checkpoint"] == "auto":
            overrides[f"teachers[{index}].training.schedule"] = SHORT["schedule"]
            continue
        overrides[f"teachers[{index}].arch"] = arch = f"torchvision/{SMALL[index]}"
        torch.manual_seed(index)
        network = build(arch, num_classes=len(CLASSES), image_size=SIZE)
        save_weights(network, folder / teacher["checkpoint"])
    return overrides


def test_own_teachers_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = furnish(tmp_path)
    plan, train, compare = recipe("train trams.yaml")
    call(plan, "--seconds", "0.1", **overrides)
    assert not Path("runs").exists()
    planned = capsys.readouterr().out
    # float16 logits of three teachers on the 21 photos that are not held out.
    assert f"{3 * 21 * len(CLASSES) * 2} B to write" in planned
    assert re.search(r"\n ce seed 0 +to train .*\n kd seed 0 +to train ", planned)
    call(train, **overrides)
    methods = {found.identity["method"]: found for found in find_runs(Path("runs/trams"))}
    assert methods.keys() == {"ce", "kd"}
    assert all(found.finished for found in methods.values())
    capsys.readouterr()
    call(compare)
    compared = capsys.readouterr().out
    for name in ("ce", "kd", "teacher squeezenet1_1", f"teacher {SMALL[1]}", "teacher resnet20"):
        assert f"\n {name} " in compared

    (export,) = re.findall(r"`(tutelage export RUN [^`]*)`", README.read_text())
    folder = methods["kd"].path
    call(shlex.split(export.replace("RUN", str(folder))))
    session = onnxruntime.InferenceSession(str(folder / "export" / "last" / "model.onnx"))
    images = np.zeros((2, 3, SIZE, SIZE), np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    assert logits.shape == (2, len(CLASSES))


def test_a_sweep_and_its_best_settings(
    fashion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tune, compare, _ = recipe("tune demo")
    few = {"data": f"{{name: arrays, file: {fashion}}}", "workers.cpus": "1"}
    call(tune, "--trials", "2", "--seeds", "1", **SHORT, **few)
    (best,) = find_runs(Path("runs/demo-kd-best"))
    assert best.identity["seed"] == 1  # the search used 0
    assert best.result()["test_accuracy"] > 0.1
    capsys.readouterr()
    call(compare)
    compared = capsys.readouterr().out
    assert re.search(r"trial +validation % +state +epochs +temperature +kd_weight", compared)
    assert len(re.findall(r"\n 00[01] .* finished ", compared)) == 2
