"""What an export refuses, and that it leaves nothing half done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from distill import run
from distill.loading import ConfigError
from orchestrator.export_plan import plan_export
from orchestrator.runs import RunFolder
from orchestrator.students import StudentError, StudentJob
from tests.export_helpers import METHODS, export, forget_teachers, job_of, train
from tests.test_cli import HEAVY, command, imported, said

PLAIN = {"method": "ce", "teachers": [], "schedule.epochs": 1}


@pytest.fixture
def finished(fashion: Path, tmp_path: Path) -> StudentJob:
    return train(job_of(fashion, tmp_path, PLAIN))


def inside(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def lacks(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def change(name: str, *path: str, to: object) -> Callable[[Path], None]:
    """Set a field of a YAML or JSON file in a run."""

    def make(folder: Path) -> None:
        values = yaml.safe_load((folder / name).read_text())
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to
        (folder / name).write_text(json.dumps(values))  # which is YAML, too

    return make


@pytest.mark.parametrize(
    ("spoil", "settings", "says"),
    [
        (lacks("config.yaml"), {}, "is no run; give the folder of a run, as runs/EXPERIMENT/"),
        (lacks("checkpoints/last.pt"), {}, "last.pt' is not there any more; train the run: `tute"),
        (lacks("model.json"), {}, "model.json', which says what the networks are built from; de"),
        (change("model.json", "mean", to="x"), {}, "model.json' does not describe a network: mean"),
        (change("config.yaml", "data", "file", to="no.npz"), {}, "no.npz'; correct the path"),
        (change("model.json", "image_size", to=9), {}, "are [1, 14, 14], the run's networks take"),
        (
            change("config.yaml", "data", "validation", to=0),
            {"weights": "best"},
            "no validation da",
        ),
        (
            change("model.json", "student", "arch", to="gone:net"),
            {},
            "student: 'gone:net': there i",
        ),
        (lambda folder: (folder / "x").touch(), {"output": "."}, "is not empty; delete it, or gi"),
        (lambda _: None, {"output": "config.yaml"}, "config.yaml' is a file; give a folder"),
    ],
)
def test_a_mistake_is_named_before_any_work(
    spoil: Callable[[Path], None],
    settings: dict[str, str],
    says: str,
    finished: StudentJob,
) -> None:
    folder = finished.folder
    spoil(folder)
    before = inside(folder)
    output = folder / settings["output"] if "output" in settings else None
    with pytest.raises(ConfigError) as error:
        plan_export(
            folder, formats=["torch"], weights=settings.get("weights", "last"), output=output
        )
    assert says in str(error.value)
    assert inside(folder) == before


def test_a_network_of_somebodys_own_that_is_gone_is_no_traceback(
    finished: StudentJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the student, and of a teacher, which is built to be timed."""
    folder, gone = finished.folder, "tests.export_helpers:gone"
    blueprint = json.loads((folder / "model.json").read_text())
    outline = {"network": {"arch": gone}, "taps": {}, "signals": {}}
    for spoilt, says in (
        (blueprint | {"student": {"arch": gone}}, "error: the student cannot be built: "),
        (blueprint | {"teachers": {"a": outline}}, "error: teacher 'a', whose time the card says"),
    ):
        (folder / "model.json").write_text(json.dumps(spoilt))
        assert run.main(["export", str(folder), "--format", "safetensors"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(says)
        assert "has no function 'gone'" in line
        assert not (folder / "export" / "last").exists()


def test_a_package_that_is_missing_is_named_with_its_command(
    finished: StudentJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs onnxscript; pip install 'tutelage\[export\]'"):
        plan_export(finished.folder, formats=["torch", "onnx"], weights="last")


def test_a_run_that_was_not_found_is_answered_with_near_misses(
    finished: StudentJob, tmp_path: Path
) -> None:
    """From outside: status 2, one line, and neither torch nor Ray was imported."""
    name = str(finished.folder.relative_to(tmp_path))
    for wrong, says in (
        (name.replace("ce-", "ec-"), f"did you mean '{name}'?"),
        ("runs", f"below 'runs', such as '{name}'"),
        (f"{name}/seed-0", f"did you mean '{name}'?"),
    ):
        done = command("export", wrong, "--format", "onnx", cwd=tmp_path)
        assert done.returncode == 2
        (line,) = said(done)
        assert line.startswith(f"error: RUN: '{wrong}' is no run; ")
        assert says in line
        assert not imported(done) & HEAVY
    done = command("export", name, "--format", "onxx", cwd=tmp_path)
    assert done.returncode == 2
    assert "choose from" in said(done)[-1]


def test_the_command_exports_once_and_never_over_what_is_there(
    finished: StudentJob, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.folder
    arguments = ["export", str(folder), "--format", "safetensors", "--format", "torch"]
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out
    output = folder / "export" / "last"
    names = ["README.md", "card.json", "config.json", "model.pt2", "model.safetensors"]
    assert inside(output) == names
    assert inside(folder / "export") == sorted(["last", *(f"last/{name}" for name in names)])
    assert f"card: {output / 'README.md'}" in printed
    assert all(name in printed for name in ("model.pt2", "model.safetensors"))
    content = (output / "card.json").read_bytes()
    assert run.main(arguments) == 2
    assert "is not empty; delete it, or give another folder" in capsys.readouterr().err
    assert (output / "card.json").read_bytes() == content


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("branching_network", "torch.export cannot trace 'tests.export_helpers:branching_network'"),
        ("nan_network", "its logits differ from PyTorch's by up to nan"),
    ],
)
def test_an_export_that_fails_leaves_nothing(
    network: str, says: str, finished: StudentJob, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, student = finished.folder, f"tests.export_helpers:{network}"
    change("config.yaml", "student", "arch", to=student)(folder)
    change("model.json", "student", "arch", to=student)(folder)
    plan = plan_export(folder, formats=["safetensors", "torch"], weights="last")
    fresh, _ = plan.blueprint.build()
    checkpoint = RunFolder(folder).checkpoint("last")
    state = torch.load(checkpoint, weights_only=True)
    state["learner"]["student"] = fresh.state_dict()
    state["learner"]["optimizer"] = torch.optim.SGD(fresh.parameters()).state_dict()
    torch.save(state, checkpoint)
    before = inside(folder)
    arguments = ["export", str(folder), "--format", "safetensors", "--format", "torch"]
    assert run.main(arguments) == 1
    assert says in capsys.readouterr().err
    assert [name for name in inside(folder) if name != "export"] == before


def test_a_checkpoint_of_other_networks_is_named(finished: StudentJob) -> None:
    change("model.json", "student", "arch", to="cnn_s")(finished.folder)
    with pytest.raises(StudentError, match=r"last.pt' is no checkpoint of this run"):
        export(finished.folder, None, ["safetensors"])
    RunFolder(finished.folder).checkpoint("last").write_bytes(b"nothing")
    with pytest.raises(StudentError, match=r"last.pt' is no checkpoint of this run"):
        export(finished.folder, None, ["safetensors"])


def test_a_run_that_is_not_finished_is_exported_as_what_it_is(
    fashion: Path, tmp_path: Path
) -> None:
    job = job_of(fashion, tmp_path, METHODS["kd"])
    with pytest.raises(KeyboardInterrupt):
        train(job, until=1)
    forget_teachers(tmp_path)
    plan, card = export(job.folder, None, ["safetensors"])
    assert (card.epochs_trained, card.epochs_planned) == (1, 2)
    assert card.test_accuracy is None
    assert [teacher.test_accuracy for teacher in card.teachers.values()] == [None, None]
    assert "| test | not measured |" in (plan.output / "README.md").read_text()


def test_what_an_older_run_lacks_is_written_without_training(finished: StudentJob) -> None:
    run_folder = RunFolder(finished.folder)
    before, weights = run_folder.result(), run_folder.checkpoint("last").read_bytes()
    for name in ("model.json", "result.json"):
        (run_folder.path / name).unlink()
    train(finished)
    plan_export(run_folder.path, formats=["torch"], weights="last")
    assert run_folder.result() == before
    assert run_folder.checkpoint("last").read_bytes() == weights
