"""The Python API is the command line's own machinery: the same runs, networks and mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import distill
from distill.config import Experiment
from distill.datasets import load_data
from orchestrator.students import StudentError
from tests.helpers import tiny, write_fashion, write_teacher


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    file = write_fashion(tmp_path / "few.npz", num_train=120, num_test=40)
    return tiny(file, {"output.root": str(tmp_path / "runs"), "seeds": [3, 4]})


def accuracy(run: distill.Run, weights: str) -> float:
    """On the test images, by the network that the run gives."""
    test = load_data(run.experiment.data).test
    images, labels = test.gather(np.arange(len(test)))
    found = run.load("best" if weights == "best" else "last")(torch.from_numpy(images)).argmax(1)
    return float((found.numpy() == labels).mean())


@pytest.mark.ray
def test_a_run_is_what_the_command_line_files(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = distill.train(experiment, quiet=True)
    assert capsys.readouterr() == ("", "")
    assert run.experiment.seeds == (3,)
    assert run.metrics["epoch"].tolist() == [0, 1]
    assert run.result is not None
    assert accuracy(run, "last") == pytest.approx(run.result["test_accuracy"])
    assert accuracy(run, "best") == pytest.approx(run.result["test_accuracy_best"])
    black = torch.zeros(1, 1, 14, 14, dtype=torch.uint8)
    assert torch.equal(run.student(black), run.load("last")(black))
    both = distill.runs(tmp_path / "runs")
    assert [found.experiment.seeds for found in both] == [(3,), (4,)]
    assert run.folder.resolve() == both[0].folder.resolve()

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(experiment.as_dict()))
    again = distill.train(tmp_path / "mine.yaml", "seeds=[4]", quiet=True)
    assert again.folder.resolve() == both[1].folder.resolve()  # finished: nothing was trained


@pytest.mark.ray
def test_of_several_methods_the_experiments_own_is_given(
    experiment: Experiment, tmp_path: Path
) -> None:
    write_teacher(tmp_path / "t.safetensors", experiment, "cnn_xs", seed=0)
    teacher = {"arch": "cnn_xs", "checkpoint": str(tmp_path / "t.safetensors"), "cpus": 0.5}
    changes = {"teachers": [teacher], "method": "kd", "baselines": ["ce"], "seeds": [3, 4]}
    root = {"output.root": str(tmp_path / "runs")}
    run = distill.train(tiny(tmp_path / "few.npz", changes | root), quiet=True)
    assert run.experiment.method.name == "kd"
    assert run.experiment.seeds == (3,)


@pytest.mark.ray
def test_a_student_that_diverges_is_an_error(experiment: Experiment) -> None:
    wild = experiment.model_copy(
        update={"optimizer": experiment.optimizer.model_copy(update={"lr": 1e30})}
    )
    with pytest.raises(StudentError, match=r"the loss is not finite"):
        distill.train(wild, quiet=True)
    (run, *_) = distill.runs(wild.output.root)
    assert run.result is None


def test_mistakes_are_answered_before_any_work(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(distill.ConfigError, match=r"did you mean 'demo'"):
        distill.train("demmo")
    with pytest.raises(distill.ConfigError, match=r"seeds=\[1\].*is taken as it is"):
        distill.train(experiment, "seeds=[1]")
    with pytest.raises(distill.ConfigError, match=r"does not fit on this machine"):
        distill.train("demo", "workers={count: 1, cpus: 1000}")
    assert not (tmp_path / "runs").exists()
    empty = distill.Run(tmp_path)
    with pytest.raises(distill.ConfigError, match=r"has no weights 'last'"):
        _ = empty.student
    with pytest.raises(AttributeError, match=r"no attribute 'trian'"):
        _ = distill.trian  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_it_is_quick() -> None:
    code = "import sys, distill; print([m for m in ('torch', 'ray', 'pandas') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; distill.load_experiment('demo'); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[]", "[]"]
