"""What a trial of a sweep tells Tune while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune

from distill.datasets import load_data
from distill.loading import ConfigError
from orchestrator.candidates import Space
from orchestrator.students import TeacherFacts
from orchestrator.trials import EPOCH, Sweep, run_trial, trial_job
from tests.helpers import prepare, tiny, two_teachers, write_fashion

EPOCHS = 4


@pytest.mark.usefixtures("cache")
def test_every_decision_has_a_checkpoint_to_hand_over_and_the_end_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that Tune still saves at the end lets it stop the trial before its result is filed."""
    file = tmp_path / "few.npz"
    write_fashion(file, num_train=60, num_test=20)
    base = tiny(file, {"method": "ce", "baselines": [], "teachers": [], "schedule.epochs": EPOCHS})
    sweep = Sweep(
        base=base,
        space=Space.of("mine", {"optimizer.lr": tune.loguniform(1e-3, 0.1)}),
        folder=tmp_path / "sweep",
        seed=0,
        checkpoints={},
        facts={},
        actors={},
        handover=2,
    )
    handed_over: dict[int, bool] = {}

    def report(row: Mapping[str, float], checkpoint: tune.Checkpoint | None = None) -> None:
        handed_over[int(row[EPOCH])] = checkpoint is not None

    monkeypatch.setattr(tune, "report", report)
    monkeypatch.setattr(tune, "get_checkpoint", lambda: None)
    context = SimpleNamespace(get_trial_name=lambda: "000")
    monkeypatch.setattr(tune, "get_context", lambda: context)
    run_trial({"optimizer.lr": 0.01}, sweep)
    assert handed_over == {1: False, 2: True, 3: False, 4: False}
    assert sweep.run_of(0, {"optimizer.lr": 0.01}).finished


def test_a_trial_knows_of_teachers_what_the_driver_knew_and_no_file_says(
    fashion: Path, tmp_path: Path
) -> None:
    """On another node than the driver's, as after `cache --remove`, accuracies are not filed."""
    base = two_teachers(fashion, tmp_path)
    keys = {teacher.name: teacher.serving.recording.key for teacher in prepare(base)}
    test = load_data(base.data).test.fingerprint
    sweep = Sweep(
        base=base,
        space=Space.of("mine", {"views.padding": tune.choice([1])}),
        folder=tmp_path / "sweep",
        seed=0,
        checkpoints={teacher.name: Path(teacher.checkpoint) for teacher in base.teachers},
        facts={(keys["a"], test): TeacherFacts(0.5, 10), (keys["b"], test): TeacherFacts(0.7, 20)},
        actors={},
        handover=0,
    )
    job = trial_job(sweep, {"views.padding": 1}, number=0)
    assert job.facts == {"a": TeacherFacts(0.5, 10), "b": TeacherFacts(0.7, 20)}
    with pytest.raises(ConfigError, match=r"nothing is recorded of teacher 'a' .* as tune\.choice"):
        trial_job(sweep, {"views.padding": 2}, number=1)
