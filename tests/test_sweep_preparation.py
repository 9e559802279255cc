"""What a sweep makes ready for its trials is each candidate's own, not its base's."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import tune

from distill.config import Experiment
from distill.datasets import load_data
from distill.loading import ConfigError
from orchestrator.candidates import Space, representatives
from orchestrator.display import Display
from orchestrator.preparation import file_accuracy
from orchestrator.sweep_preparation import prepared_sweep
from orchestrator.teachers import Teacher, input_plan
from orchestrator.trials import Sweep
from orchestrator.verification import columns_of
from tests.helpers import prepare, record_here, two_teachers

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def inputs(*paddings: int) -> Space:
    """All that inputs depend on: in a domain, or fixed, to what the base does not have."""
    fixed = {"signals.plan_seed": 5, "data.validation": 0.2, "signals.passes": 1}
    return Space.of("inputs", {"views.padding": tune.choice(paddings)} | fixed)


def one_teacher(fashion: Path, folder: Path, **signals: object) -> Experiment:
    """``two_teachers`` without the second one."""
    changes = {f"signals.{name}": value for name, value in signals.items()}
    experiment = two_teachers(fashion, folder, changes | {"schedule.epochs": 1})
    return experiment.model_copy(update={"teachers": experiment.teachers[:1]})


@contextmanager
def ready(base: Experiment, space: Space) -> Generator[Sweep]:
    with (
        Display(io.StringIO()) as display,
        prepared_sweep(base, space, display, handover=0) as sweep,
    ):
        yield sweep


@pytest.mark.parametrize(("source", "space"), [("cached", inputs(2, 3)), ("served", inputs(2))])
def test_teachers_answer_for_the_inputs_of_each_candidate(
    fashion: Path, tmp_path: Path, source: str, space: Space
) -> None:
    base = one_teacher(fashion, tmp_path, source=source)
    with ready(base, space) as sweep:
        for experiment in representatives(base, space):
            (prepared,) = prepare(experiment)
            serving, data = prepared.serving, load_data(experiment.data)
            signals, samples = serving.recording.signals, np.arange(40)
            if source == "cached":
                (column,) = columns_of(serving.recording).values()
                found = column.open_pass(0)[samples]
            else:
                (actor,) = sweep.actors[serving.recording.key]
                (found,) = ray.get(actor.rows.remote(samples, 0, signals))
            teacher = Teacher(serving.recipe, input_plan(experiment))
            (rows,) = teacher.rows(samples, 0, signals)
            assert np.array_equal(found, rows)
            assert sweep.facts_of(prepared, data).accuracy == teacher.test_accuracy()


def test_records_are_declared_as_read_while_trials_run(fashion: Path, tmp_path: Path) -> None:
    base, space = one_teacher(fashion, tmp_path), inputs(2, 3)
    found = [prepare(experiment)[0] for experiment in representatives(base, space)]
    for experiment, teacher in zip(representatives(base, space), found, strict=True):
        record_here(teacher.serving, input_plan(experiment), [0])
        file_accuracy(teacher, load_data(experiment.data), 0.5)
    stores = [teacher.serving.recording.store for teacher in found]

    def needed() -> list[set[int]]:
        return [s.place.consumers(s.identity.key).needs_of_others() for s in stores]

    with ready(base, space):
        assert needed() == [{0}, {0}]
    assert needed() == [set(), set()]


def test_a_mirror_too_small_for_a_trial_is_a_mistake(fashion: Path, tmp_path: Path) -> None:
    bound = {"root": "memory://sweep", "mirror": str(tmp_path / "mirror"), "mirror_bytes": 100}
    base, space = one_teacher(fashion, tmp_path, **bound), inputs(2)
    for experiment in representatives(base, space):
        file_accuracy(prepare(experiment)[0], load_data(experiment.data), 0.5)
    with (
        pytest.raises(ConfigError, match=r"signals\.mirror_bytes: 100 is too small: 'kd' reads"),
        ready(base, space),
    ):
        pass
