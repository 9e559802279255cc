"""How a sweep searches: what does not go together, what it is resumed from, what it tries next."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.candidates import Space, candidate
from orchestrator.run_differences import flatten
from orchestrator.runs import write_atomically

DEFAULT_TRIALS = 8
Metric = Literal["accuracy/validation", "accuracy/validation_best"]
Scheduler = Literal["none", "asha", "pbt"]
Search = Literal["random", "grid", "optuna"]

_FILE = "sweep.json"
# A resumed sweep may be larger; everything else must be as it was.
_MAY_CHANGE = ("plan.num_trials", "plan.num_seeds", "experiment.output.root")
_OF_A_CALL = ("resume", "at_a_time")
_TRIES = 100  # draws for a value that was not drawn before


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """How to search."""

    num_trials: int | None = None  # None: the whole grid, or DEFAULT_TRIALS
    at_a_time: int | None = None  # None: as many as the cluster holds
    scheduler: Scheduler = "none"
    search: Search = "random"
    metric: Metric = "accuracy/validation"
    num_seeds: int = 3  # of the best candidate's own runs
    search_seed: int = 0
    resume: bool = False

    def size(self, space: Space) -> int:
        """The number of trials."""
        if self.search == "grid":
            return math.prod(len(values) for values in space.choices().values())
        return DEFAULT_TRIALS if self.num_trials is None else self.num_trials


def sweep_folder(base: Experiment, space: Space) -> Path:
    return base.output.root / base.name / f"tune-{space.name}"


def check_plan(base: Experiment, space: Space, plan: Plan) -> None:
    """Raise ConfigError for a search that this space, or this folder, does not allow."""
    if base.data.validation == 0:
        raise ConfigError("data.validation: 0 leaves nothing to select by; set it above 0")
    workers = base.workers
    if workers.is_elastic and workers.most > 1:
        raise ConfigError(
            f"workers.min: {workers.least} to {workers.most} workers, but the trials of a sweep "
            "share the cluster by numbers that are known; set workers={count: N}"
        )
    signals = candidate(base, space, space.draw(np.random.default_rng(0))).signals
    if signals.source == "cached" and signals.retain == "window":
        raise ConfigError(
            "signals.retain: 'window' deletes the passes that runs have left, and every trial of a "
            "sweep reads them from the first; set it to all"
        )
    if plan.search == "grid":
        _check_grid(space, plan)
    if plan.search == "optuna" and find_spec("optuna") is None:
        raise ConfigError(
            "--search optuna: the package optuna is not installed; pip install 'tutelage[optuna]'"
        )
    if plan.scheduler == "pbt":
        _check_pbt(base, space, plan)
    _check_folder(base, space, plan)


def _check_grid(space: Space, plan: Plan) -> None:
    if ranges := sorted(space.domains.keys() - space.choices().keys()):
        raise ConfigError(
            f"--search grid: takes lists, and {', '.join(ranges)} of space '{space.name}' are "
            "ranges; use --search random, or a space of tune.choice"
        )
    if plan.num_trials not in (None, plan.size(space)):
        raise ConfigError(
            f"--trials: {plan.num_trials}, but the grid of space '{space.name}' has "
            f"{plan.size(space)} points, and --search grid tries all; leave --trials out"
        )


def _check_pbt(base: Experiment, space: Space, plan: Plan) -> None:
    """Population-based training changes a running trial's settings, so they must be numbers."""
    if plan.search != "random":
        raise ConfigError(
            f"--search {plan.search}: --scheduler pbt searches by itself; leave --search out"
        )
    draw = space.draw(np.random.default_rng(0))
    fixed = [
        path
        for path, value in draw.items()
        if not path.startswith(("optimizer.", "method."))
        or isinstance(value, bool)
        or not isinstance(value, int | float)
    ]
    if fixed:
        raise ConfigError(
            f"--scheduler pbt: changes numbers of the optimizer and the method while a trial "
            f"trains, and {', '.join(fixed)} of space '{space.name}' cannot be changed then; use "
            "asha, or leave them out of the space"
        )
    if base.workers.most > 1:
        raise ConfigError(
            f"workers.count: {base.workers.most}, but --scheduler pbt trains in the trial's own "
            "process; set it to 1, or use asha"
        )


def _check_folder(base: Experiment, space: Space, plan: Plan) -> None:
    """What lies there must be this sweep, if it is to be resumed, and nothing otherwise."""
    file = sweep_folder(base, space) / _FILE
    if plan.resume != file.is_file():
        raise ConfigError(
            f"--resume: there is no sweep in {file.parent}; leave it out"
            if plan.resume
            else f"--space {space.name}: {file.parent} holds such a sweep already; go on with it "
            "by --resume, or give this one a name of its own by -s name=NAME"
        )
    if not plan.resume:
        return
    try:
        there = flatten(json.loads(file.read_text()))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"--resume: {file} is damaged ({error}); begin another sweep by -s name=NAME"
        ) from None
    here = flatten(json.loads(json.dumps(_description(base, space, plan), default=str)))
    for path in sorted(there.keys() | here.keys()):
        if there.get(path) != here.get(path) and path not in _MAY_CHANGE:
            raise ConfigError(
                f"--resume: {path} was {there.get(path)} when the sweep in {file.parent} was "
                f"begun, and is {here.get(path)} now; set it back, or begin another by -s name=NAME"
            )


def file_plan(base: Experiment, space: Space, plan: Plan) -> None:
    """Say what a sweep is, in its folder."""
    text = json.dumps(_description(base, space, plan), indent=2, default=str) + "\n"
    file = sweep_folder(base, space) / _FILE
    write_atomically(file, lambda draft: draft.write_text(text))


def _description(base: Experiment, space: Space, plan: Plan) -> dict[str, Any]:
    domains = {
        path: [type(domain).__name__, domain.domain_str] for path, domain in space.domains.items()
    }
    return {
        "plan": {name: value for name, value in asdict(plan).items() if name not in _OF_A_CALL},
        "space": {"fixed": dict(space.fixed), "domains": domains},
        "experiment": base.as_dict(),
    }


def proposals(
    space: Space, plan: Plan, known: Mapping[int, Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """The values to try, by trial number, as far as they are known before any result is.

    Those of ``known`` trials are kept. Random ones depend on the plan's seed alone, so a resumed
    sweep proposes what it would have.
    """
    found: dict[int, Mapping[str, Any]] = {}
    if plan.search != "optuna":
        values = _grid(space) if plan.search == "grid" else _draws(space, plan)
        found |= dict(enumerate(itertools.islice(values, plan.size(space))))
    return dict(sorted((found | dict(known)).items()))


def _grid(space: Space) -> Iterator[Mapping[str, Any]]:
    choices = space.choices()
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _draws(space: Space, plan: Plan) -> Iterator[Mapping[str, Any]]:
    """Random values; none twice, as long as others are found."""
    random = np.random.default_rng(plan.search_seed)
    seen: list[Mapping[str, Any]] = []
    while True:
        values = space.draw(random)
        for _ in range(_TRIES):
            if values not in seen:
                break
            values = space.draw(random)
        seen.append(values)
        yield values
