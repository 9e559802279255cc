"""From a search space to experiments: values by dotted path, checked before any trial starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from distill.config import Experiment
from distill.loading import ConfigError, apply_override, validate

MANY = 256  # combinations of a space's choices; of more, as many are drawn
CHECKED = 32  # draws of a space that are validated before anything starts


@final
@dataclass(frozen=True, slots=True)
class Space:
    """A search space over an experiment's fields."""

    name: str
    fixed: Mapping[str, Any]  # set first, in every trial
    domains: Mapping[str, Any]  # dotted path -> ray.tune's Domain

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> Space:
        """Raises ConfigError where nothing is left to search."""
        from ray.tune.search.sample import Domain

        domains = {path: value for path, value in values.items() if isinstance(value, Domain)}
        if not domains:
            raise ConfigError(f"space '{name}': no domain in it; give one, as in tune.choice([…])")
        fixed = {path: value for path, value in values.items() if path not in domains}
        return cls(name, fixed, domains)

    def draw(self, random: np.random.Generator) -> dict[str, Any]:
        """One random value of every domain."""
        return {path: plain(d.sample(random_state=random)) for path, d in self.domains.items()}

    def choices(self) -> dict[str, list[Any]]:
        """The domains that are lists of values."""
        from ray.tune.search.sample import Categorical

        return {
            path: list(domain.categories)
            for path, domain in self.domains.items()
            if isinstance(domain, Categorical)
        }


def plain(value: Any) -> Any:
    """numpy's scalars as Python's: YAML and JSON know no others."""
    return value.item() if isinstance(value, np.generic) else value


def candidate(base: Experiment, space: Space, values: Mapping[str, Any]) -> Experiment:
    """``base`` under a trial's values: one method, no baselines. Raises ConfigError."""
    raw = base.as_dict() | {"baselines": []}
    for path, value in {**space.fixed, **values}.items():
        apply_override(raw, path, plain(value))
    return validate(raw)


def check_space(base: Experiment, space: Space) -> None:
    """Hold draws of a space against the experiment. Raises ConfigError, one line a mistake."""
    random = np.random.default_rng(0)
    lines: list[str] = []
    for _ in range(CHECKED):
        try:
            candidate(base, space, space.draw(random))
        except ConfigError as error:
            lines += str(error).splitlines()
    if lines:
        shown = (f"space '{space.name}': {line}" for line in dict.fromkeys(lines))
        raise ConfigError("\n".join(shown))


def representatives(base: Experiment, space: Space) -> list[Experiment]:
    """Candidates with every combination of the space's choices, or MANY draws of them.

    What is recorded depends on choices (of hint groups, stages, methods, views), not on where in a
    range a number lies; so their records together serve every trial.
    """
    random = np.random.default_rng(0)
    choices = space.choices()
    combinations: Iterator[tuple[Any, ...]] | Sequence[tuple[Any, ...]]
    if math.prod(len(values) for values in choices.values()) <= MANY:
        combinations = itertools.product(*choices.values())
    else:
        combinations = [() for _ in range(MANY)]
    found: list[Experiment] = []
    for values in combinations:
        chosen = dict(zip(choices, values, strict=False))
        found.append(candidate(base, space, space.draw(random) | chosen))
    return found


def joint_experiments(candidates: Sequence[Experiment]) -> list[Experiment]:
    """As few experiments as record what all candidates read: methods join where the rest agrees."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in candidates:
        whole = experiment.as_dict()
        fields = ("data", "views", "teachers", "signals", "student")
        key = repr([*(whole[name] for name in fields), experiment.num_passes])
        groups.setdefault(key, []).append(experiment)
    joint: list[Experiment] = []
    for group in groups.values():
        methods = list(dict.fromkeys(experiment.method for experiment in group))
        update = {"method": methods[0], "baselines": tuple(methods[1:])}
        joint.append(group[0].model_copy(update=update))
    return joint
