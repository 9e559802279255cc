"""Sweeps with real trials on tiny data: one recording, no test image, nothing twice."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from ray import tune

from distill.loading import ConfigError, load_experiment
from orchestrator.candidates import Space
from orchestrator.display import Display
from orchestrator.sweep_plan import Plan
from orchestrator.sweeps import concurrency, run_sweep
from orchestrator.trial_files import Outcome
from tests.helpers import tiny, write_fashion

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cache")]

KD = {"method": "kd", "method.temperature": tune.choice([1.0, 4.0, 8.0])}
RATES = {"optimizer.lr": tune.loguniform(1e-4, 0.2)}


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
    assert len({trial.values["method.temperature"] for trial in outcome.trials}) == 3
    best = load_experiment(str(outcome.best_file))
    assert best == outcome.best
    assert best.seeds == (1, 2, 3)  # the search used 0


def test_a_trial_that_diverges_fails_alone_and_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"optimizer.lr": tune.choice([0.05, 1e9])}
    outcome, shown = sweep(tmp_path, values, search="grid")
    assert [trial.state for trial in outcome.trials] == ["finished", "failed"]
    assert "not finite" in outcome.trials[1].reason
    assert "trial 001 FAILED" in shown
    assert capsys.readouterr().out == "", "Tune prints what the display shows already"
    assert outcome.best is not None
    assert outcome.best.optimizer.lr == 0.05
    again, shown = sweep(tmp_path, values, search="grid", resume=True)
    assert again.trials == outcome.trials
    assert "2 of 2 trials have ended; kept" in shown
    assert "trials at a time" not in shown


def test_asha_stops_some_and_a_larger_sweep_goes_on_from_a_smaller(tmp_path: Path) -> None:
    plan = {"scheduler": "asha", "overrides": {"schedule.epochs": 8}}
    outcome, _ = sweep(tmp_path, RATES, num_trials=4, **plan)
    assert {trial.state for trial in outcome.trials} == {"finished", "stopped"}
    larger, shown = sweep(tmp_path, RATES, num_trials=5, resume=True, **plan)
    assert "4 of 5 trials have ended; kept" in shown
    before = {trial.number: trial for trial in outcome.trials}
    after = {trial.number: trial for trial in larger.trials}
    assert after.keys() == {0, 1, 2, 3, 4}
    assert all(after[number] == trial for number, trial in before.items())


def test_a_population_takes_over_checkpoints_and_settings(tmp_path: Path) -> None:
    overrides = {"schedule.epochs": 8}
    values = {"optimizer.lr": tune.loguniform(1e-7, 0.5)}
    outcome, _ = sweep(tmp_path, values, overrides=overrides, num_trials=3, scheduler="pbt")
    assert [trial.epochs for trial in outcome.trials] == [8, 8, 8]
    assert [trial.state for trial in outcome.trials] == ["finished"] * 3
    assert not list(outcome.folder.rglob("checkpoint_*")), "what was handed over is left behind"
    first = dict(enumerate(_draws(values, 3)))
    assert any(trial.values != first[trial.number] for trial in outcome.trials)


def _draws(values, count: int) -> list[dict]:
    from orchestrator.sweep_plan import proposals

    return list(proposals(Space.of("mine", values), Plan(num_trials=count), {}).values())


def test_optuna_proposes_by_what_it_has_seen(tmp_path: Path) -> None:
    outcome, _ = sweep(tmp_path, RATES, num_trials=2, search="optuna")
    larger, _ = sweep(tmp_path, RATES, num_trials=3, search="optuna", resume=True)
    assert [trial.state for trial in larger.trials] == ["finished"] * 3
    known = {trial.number: trial for trial in outcome.trials}
    kept = {trial.number: trial for trial in larger.trials if trial.number in known}
    assert kept == known
    assert {trial.number for trial in larger.trials} == {0, 1, 2}


def test_a_sweep_is_not_resumed_under_other_settings(tmp_path: Path) -> None:
    sweep(tmp_path, KD, num_trials=1)
    with pytest.raises(ConfigError, match=r"go on with it by --resume"):
        sweep(tmp_path, KD, num_trials=1)
    changed = {"schedule.epochs": 3}
    with pytest.raises(ConfigError, match=r"schedule\.epochs was 2 .* and is 3 now"):
        sweep(tmp_path, KD, num_trials=1, resume=True, overrides=changed)


def test_a_trial_that_cannot_be_placed_is_said_before_anything_starts(tmp_path: Path) -> None:
    overrides = {"workers": {"count": 64, "cpus": 1}}
    with pytest.raises(ConfigError, match=r"count: 64 workers .* hold 2 at a time"):
        sweep(tmp_path, KD, num_trials=1, overrides=overrides)
    assert not list(tmp_path.rglob("*.arrow"))


def test_served_teachers_leave_less_room(tmp_path: Path) -> None:
    write_fashion(tmp_path / "few.npz", num_train=120, num_test=20)
    changes = {"teachers": [{"arch": "cnn_xs", "cpus": 1}], "method": "kd"}
    base = tiny(tmp_path / "few.npz", changes | {"workers": {"count": 1, "cpus": 1}})
    assert concurrency(base) == 2
    served = base.model_copy(
        update={"signals": base.signals.model_copy(update={"source": "served"})}
    )
    assert concurrency(served) == 1
