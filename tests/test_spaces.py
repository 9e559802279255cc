"""Search spaces: all that are shipped fit, and a mistake in one is told before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import tune

from distill.loading import ConfigError, load_experiment
from distill.methods import method_names
from distill.run import main
from orchestrator.candidates import (
    Space,
    candidate,
    check_space,
    joint_experiments,
    representatives,
)
from orchestrator.sweep_plan import Plan, check_plan
from search_spaces import load_space, space_names

DEMO = load_experiment("demo")


def space(**domains) -> Space:
    return Space.of("mine", {path.replace("__", "."): value for path, value in domains.items()})


@pytest.mark.parametrize("name", space_names())
def test_a_shipped_space_fits_an_experiment(name: str) -> None:
    check_space(DEMO, Space.of(name, load_space(name)))


def test_every_method_that_has_teachers_has_a_space() -> None:
    assert set(method_names()) - {"ce"} <= set(space_names())


def test_an_unknown_path_names_its_near_miss() -> None:
    with pytest.raises(ConfigError) as caught:
        check_space(DEMO, space(method__temprature=tune.choice([1.0])))
    assert str(caught.value).startswith(
        "space 'mine': method.temprature: unknown key; did you mean 'temperature'?"
    )


def test_a_value_out_of_range_is_found_in_a_draw() -> None:
    with pytest.raises(ConfigError, match=r"space 'mine': optimizer\.lr: .* greater than 0"):
        check_space(DEMO, space(optimizer__lr=tune.choice([0.1, -0.1])))


def test_a_space_needs_a_domain() -> None:
    with pytest.raises(ConfigError, match="no domain in it"):
        space(method="kd")


def test_an_unknown_space_names_its_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'amtml'"):
        load_space("amtlm")


def test_a_space_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from ray import tune\nSPACE = {'optimizer.lr': tune.uniform(0.1, 0.2)}\n")
    found = Space.of("own", load_space(str(file)))
    assert 0.1 <= candidate(DEMO, found, {"optimizer.lr": 0.15}).optimizer.lr <= 0.2
    file.write_text("LR = 1\n")
    with pytest.raises(ConfigError, match="has no SPACE"):
        load_space(str(file))


def test_fixed_values_come_first() -> None:
    found = space(method__alpha=tune.uniform(0.1, 0.2), method="amtml")
    assert candidate(DEMO, found, {"method.alpha": 0.15}).method.model_dump()["alpha"] == 0.15


def test_representatives_have_every_combination_of_choices() -> None:
    found = space(
        method="amtml",
        method__hint_groups=tune.choice(["", "all", "none"]),
        method__gate_epochs=tune.choice([1, 2]),
        method__alpha=tune.uniform(0.1, 0.9),
    )
    methods = [experiment.method.model_dump() for experiment in representatives(DEMO, found)]
    assert len({(m["hint_groups"], m["gate_epochs"]) for m in methods}) == len(methods) == 6


def test_methods_of_one_recording_join_in_one_experiment() -> None:
    found = space(
        method__temperature=tune.choice([1.0, 2.0]), views__padding=tune.choice([1, 2, 3])
    )
    joint = joint_experiments(representatives(DEMO, found))
    assert sorted(experiment.views.padding for experiment in joint) == [1, 2, 3]
    assert all(len(experiment.methods) == 2 for experiment in joint)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"search": "grid"}, "optimizer.lr of space 'mine' are ranges"),
        ({"scheduler": "pbt"}, "student.arch of space 'mine' cannot be changed then"),
        ({"resume": True}, "there is no sweep in"),
    ],
)
def test_a_search_that_cannot_be_is_told(plan, said: str) -> None:
    found = space(
        optimizer__lr=tune.uniform(0.1, 0.2), student__arch=tune.choice(["cnn_xs", "cnn_s"])
    )
    with pytest.raises(ConfigError, match=said):
        check_plan(DEMO, found, Plan(num_trials=2, **plan))


@pytest.mark.parametrize("place", ["base", "space"])
def test_a_window_of_passes_is_no_place_for_a_sweep(place: str) -> None:
    """Trials begin one after the other, each with the first pass."""
    window = {"signals.retain": "window"}
    base = load_experiment("demo", ["signals.retain=window"]) if place == "base" else DEMO
    fixed = window if place == "space" else {}
    found = Space.of("mine", {"optimizer.lr": tune.uniform(0.1, 0.2)} | fixed)
    with pytest.raises(ConfigError, match=r"signals\.retain: 'window' .* set it to all"):
        check_plan(base, found, Plan(num_trials=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--space", "kdd"], "error: space: no shipped space 'kdd'"),
        (["--space", "kd", "--trials", "0"], "error: --trials: 0 is too few"),
        (["--space", "kd", "--seeds", "0"], "error: --seeds: 0 is too few"),
        (["--space", "kd", "--at-a-time", "0"], "error: --at-a-time: 0 is too few"),
        (["--space", "kd", "-s", "data.validation=0"], "error: data.validation: 0 leaves nothing"),
        (["--space", "kd", "--search", "grid"], "error: --search grid: takes lists"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "demo", *options, "-s", f"output.root={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
