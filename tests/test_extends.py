"""``extends:`` in an experiment: fields merged one by one, mistakes told."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import AdamW
from distill.loading import ConfigError, load_experiment


def test_an_experiment_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: demo\nname: base\nmethod: {temperature: 2}\n")
    top = tmp_path / "top.yaml"
    top.write_text("extends: base.yaml\nmethod: {kd_weight: 3}\nviews: {kind: identity}\n")
    experiment, demo = load_experiment(str(top)), load_experiment("demo")
    assert (experiment.name, experiment.teachers) == ("base", demo.teachers)
    assert experiment.method.model_dump() == {
        **demo.method.model_dump(),
        "temperature": 2,
        "kd_weight": 3,
    }


def test_another_name_replaces_what_it_extends(tmp_path: Path) -> None:
    top = tmp_path / "top.yaml"
    top.write_text("extends: demo\nviews: {kind: identity}\noptimizer: {name: adamw}\n")
    assert load_experiment(str(top)).optimizer == AdamW(name="adamw")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: top.yaml\n", "goes round in a circle"),
        ("extends: 3\n", "should be an experiment's name or file (it is 3)"),
        ("extends: demmo\n", "did you mean 'demo'?"),
    ],
)
def test_a_mistake_in_extends_is_told(text: str, said: str, tmp_path: Path) -> None:
    top = tmp_path / "top.yaml"
    top.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_experiment(str(top))
    assert said in str(caught.value)
