"""Sweeps with real trials on tiny data: one recording, no test image, nothing lost."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from ray import tune

from distill.loading import load_experiment
from orchestrator.candidates import Space
from orchestrator.display import Display
from orchestrator.sweep_plan import Plan
from orchestrator.sweeps import Outcome, run_sweep
from tests.helpers import tiny, write_fashion

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cache")]

KD = {"method": "kd", "method.temperature": tune.choice([1.0, 4.0])}


def sweep(folder: Path, values, *, overrides=None, **plan) -> tuple[Outcome, str]:
    file = folder / "few.npz"
    if not file.exists():
        write_fashion(file, num_train=120, num_test=20)
    teacher = {"arch": "cnn_xs", "training": {"schedule": {"epochs": 1, "batch_size": 32}}}
    base = tiny(
        file,
        {
            "teachers": [{**teacher, "cpus": 0.5}],
            "method": "kd",
            "output.root": str(folder / "runs"),
            **(overrides or {}),
        },
    )
    shown = io.StringIO()
    with Display(shown) as display:
        outcome = run_sweep(base, Space.of("mine", values), Plan(**plan), display)
    return outcome, shown.getvalue()


def results(outcome: Outcome) -> list[dict]:
    files = sorted(outcome.folder.glob("trials/*/seed-*/result.json"))
    return [json.loads(file.read_text()) for file in files]


def test_trials_share_one_recording_and_none_is_tested(tmp_path: Path) -> None:
    outcome, shown = sweep(tmp_path, KD, num_trials=3)
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    assert shown.count("recording:") == 2  # its beginning and its end
    assert len(results(outcome)) == 3
    assert all(result["test_accuracy"] is None for result in results(outcome))
    scores = [trial.score for trial in outcome.trials]
    assert scores == sorted(scores, reverse=True)
    best = load_experiment(str(outcome.best_file))
    assert best == outcome.best
    assert best.seeds == (1, 2, 3)  # the search used 0


def test_a_trial_that_diverges_fails_alone(tmp_path: Path) -> None:
    values = {"optimizer.lr": tune.choice([0.05, 1e9])}
    outcome, _ = sweep(tmp_path, values, num_trials=1, search="grid")
    assert [trial.state for trial in outcome.trials] == ["finished", "failed"]
    assert "not finite" in outcome.trials[1].reason
    assert outcome.best is not None
    assert outcome.best.optimizer.lr == 0.05


def test_asha_stops_some_and_pbt_goes_on_from_others(tmp_path: Path) -> None:
    values = {"optimizer.lr": tune.loguniform(1e-4, 0.2)}
    overrides = {"schedule.epochs": 8}
    asha, _ = sweep(tmp_path, values, overrides=overrides, num_trials=4, scheduler="asha")
    assert {trial.state for trial in asha.trials} == {"finished", "stopped"}
    overrides["name"] = "pbt"
    pbt, _ = sweep(tmp_path, values, overrides=overrides, num_trials=2, scheduler="pbt")
    assert [trial.epochs for trial in pbt.trials] == [8, 8]
