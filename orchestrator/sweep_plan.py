"""How a sweep searches, and what of that does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.candidates import Space

METRIC = "accuracy/validation"
Scheduler = Literal["none", "asha", "pbt"]
Search = Literal["random", "grid", "optuna"]


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """How to search."""

    num_trials: int
    scheduler: Scheduler = "none"
    search: Search = "random"
    metric: str = METRIC
    num_seeds: int = 3  # of the best candidate's own runs
    search_seed: int = 0
    resume: bool = False


def sweep_folder(base: Experiment, space: Space) -> Path:
    return base.output.root / base.name / f"tune-{space.name}"


def check_plan(base: Experiment, space: Space, plan: Plan) -> None:
    """Raise ConfigError for a search that this space, or this folder, does not allow."""
    if plan.metric == METRIC and base.data.validation == 0:
        raise ConfigError("data.validation: 0 leaves nothing to select by; set it above 0")
    if plan.search == "grid" and (ranges := sorted(space.domains.keys() - space.choices())):
        raise ConfigError(
            f"--search grid: takes lists, and {', '.join(ranges)} of space '{space.name}' are "
            "ranges; use --search random, or a space of tune.choice"
        )
    if plan.scheduler == "pbt":
        fixed = [path for path in space.domains if not path.startswith(("optimizer.", "method."))]
        if fixed:
            raise ConfigError(
                f"--scheduler pbt: changes settings while a trial trains, and {', '.join(fixed)} "
                "cannot be changed then; use asha, or leave them out of the space"
            )
        if base.workers.count > 1:
            raise ConfigError(
                "--scheduler pbt: trains in the trial's own process; set workers.count=1, or use "
                "asha"
            )
    folder = sweep_folder(base, space)
    if plan.resume != (folder / "sweep.json").is_file():
        raise ConfigError(
            f"--resume: there is no sweep in {folder}; leave it out"
            if plan.resume
            else f"--space: {folder} holds a sweep already; --resume goes on with it, or set "
            "another name"
        )
