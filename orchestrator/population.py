"""Population-based training (Jaderberg et al. 2017) in step: trials compared at equal epochs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, final

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Categorical, Domain, Float, Integer, Quantized

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


@final
class Population(PopulationBasedTraining):
    """Ray's synchronous scheduler, with three changes.

    After the last of ``epochs`` nothing is taken over: it would rename a result, and train nothing.
    Nobody waits for ever: in Ray's, trials that are paused at a decision hang once the trial they
    wait for has failed, or if they began beyond the first decision (a resumed sweep). And changed
    settings stay in their ``domains``: Ray's multiplies every number, whatever its bounds or list.
    """

    def __init__(self, *, epochs: int, domains: Mapping[str, Domain], **settings: Any) -> None:
        mutations: dict[str, Any] = {
            path: list(domain.categories) if isinstance(domain, Categorical) else domain
            for path, domain in domains.items()
        }
        super().__init__(
            synch=True,
            hyperparam_mutations=mutations,
            custom_explore_fn=partial(_inside, domains=domains),
            **settings,
        )
        self._epochs = epochs

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        if result[self._time_attr] >= self._epochs:
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        self._keep_going(tune_controller)
        return decision

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self._keep_going(tune_controller, without=trial)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        super().on_trial_error(tune_controller, trial)
        self._keep_going(tune_controller, without=trial)

    def _keep_going(self, tune_controller: TuneController, without: Trial | None = None) -> None:
        """Put the next decision off to when somebody can have trained until then."""
        live = [trial for trial in tune_controller.get_live_trials() if trial is not without]
        times = [self._trial_state[trial].last_train_time for trial in live]
        if times and min(times) >= self._next_perturbation_sync:
            self._next_perturbation_sync = max(times) + self._perturbation_interval


def _inside(values: dict[str, Any], domains: Mapping[str, Domain]) -> dict[str, Any]:
    """Each number moved to the nearest that its range has."""
    return values | {
        path: _nearest(values[path], domain)
        for path, domain in domains.items()
        if isinstance(domain, Float | Integer)
    }


def _nearest(value: float, domain: Float | Integer) -> float:
    sampler = domain.get_sampler()
    step = sampler.q if isinstance(sampler, Quantized) else None
    lower, upper = domain.lower, domain.upper
    if isinstance(domain, Integer):
        step = step or 1
        if step == 1:
            upper -= 1  # which Ray never draws; of longer steps it does
        lower, upper = lower + -lower % step, upper - upper % step
    if step is not None:
        value = round(value / step) * step
    return domain.cast(min(max(value, lower), upper))
