"""What a trial of a sweep tells Tune while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune

from orchestrator.candidates import Space
from orchestrator.trials import EPOCH, Sweep, run_trial
from tests.helpers import tiny, write_fashion

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
