"""Trials of a population wait for one another at decisions, and never for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from orchestrator.population import Population

EPOCHS, EVERY = 8, 2
RATES = tune.choice([0.1, 0.2])


class FakeTrial:
    """What the scheduler reads of a trial."""

    def __init__(self) -> None:
        self.status = Trial.RUNNING
        self.config = {"optimizer.lr": 0.1}
        self.evaluated_params = self.experiment_tag = ""
        manager = SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
        self.run_metadata = SimpleNamespace(checkpoint_manager=manager)
        self.checkpoint = None
        self.temporary_state = SimpleNamespace(saving_to=None)
        self.trial_id = "t"

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)


class Race:
    """A controller's side of the scheduler, which pauses and ends as it is told."""

    search_alg = None

    def __init__(self, count: int, domain: Any = RATES) -> None:
        self.trials = [FakeTrial() for _ in range(count)]
        self.scheduler = Population(
            epochs=EPOCHS,
            metric="accuracy",
            mode="max",
            time_attr="epoch",
            perturbation_interval=EVERY,
            domains={"optimizer.lr": domain},
        )
        for trial in self.trials:
            self.scheduler.on_trial_add(self.seen, cast(Trial, trial))

    @property
    def seen(self) -> Any:
        return self

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def get_live_trials(self) -> list[FakeTrial]:
        return [trial for trial in self.trials if not trial.is_finished()]

    def _schedule_trial_save(self, trial: FakeTrial, result: object) -> None:
        """There is no checkpoint to take over."""

    def report(self, number: int, epoch: int) -> str:
        trial = self.trials[number]
        trial.status = Trial.RUNNING
        result = {"epoch": epoch, "accuracy": 0.5}
        decision = self.scheduler.on_trial_result(self.seen, cast(Trial, trial), result)
        if decision == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        return decision

    def end(self, number: int, *, status: str) -> None:
        trial = cast(Any, self.trials[number])
        trial.status = status
        if status == Trial.ERROR:
            self.scheduler.on_trial_error(self.seen, trial)
        else:
            self.scheduler.on_trial_complete(self.seen, trial, {})

    @property
    def next(self) -> FakeTrial | None:
        return cast(FakeTrial | None, self.scheduler.choose_trial_to_run(self.seen))


@pytest.mark.parametrize("status", [Trial.TERMINATED, Trial.ERROR])
def test_the_others_go_on_when_the_one_they_wait_for_has_ended(status: str) -> None:
    race = Race(3)
    assert [race.report(number, EVERY) for number in (0, 1)] == [TrialScheduler.PAUSE] * 2
    assert race.next is None, "trial 2 has still to come to the decision"
    race.end(2, status=status)
    assert race.next in race.trials[:2]


def test_trials_that_begin_beyond_the_first_decision_go_on() -> None:
    race = Race(2)
    for number in (0, 1):
        assert race.report(number, 3 * EVERY) == TrialScheduler.PAUSE
    assert race.next is not None


def test_after_the_last_epoch_nobody_waits_and_nothing_is_taken_over() -> None:
    race = Race(2)
    assert race.report(0, EPOCHS) == TrialScheduler.CONTINUE
    race.end(0, status=Trial.TERMINATED)
    assert race.report(1, EPOCHS) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    ("domain", "start", "allowed"),
    [
        (tune.uniform(0.8, 0.95), 0.9, None),
        (tune.loguniform(1e-3, 1.0), 0.9, None),
        (tune.quniform(0.8, 0.95, 0.05), 0.9, [0.8, 0.85, 0.9, 0.95]),
        (tune.randint(3, 6), 5, [3, 4, 5]),
        (tune.qrandint(3, 9, 4), 8, [4, 8]),
        (tune.choice([8, 1, 2]), 8, [8, 1, 2]),
    ],
)
def test_changed_settings_stay_in_the_space(
    domain: Any, start: float, allowed: list[float] | None
) -> None:
    race = Race(2, domain)
    strong, weak = (cast(Trial, trial) for trial in race.trials)
    strong.config = {"optimizer.lr": start}
    seen: set[float] = set()
    for _ in range(200):
        config, _ = race.scheduler._get_new_config(weak, strong)
        seen.add(round(config["optimizer.lr"], 9))
    assert len(seen) > 1
    if allowed is not None:
        assert seen <= set(allowed)
    else:
        assert domain.lower <= min(seen) < max(seen) <= domain.upper
