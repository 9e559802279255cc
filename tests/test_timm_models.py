"""``timm/NAME``: taps, sizes, options, and what is said where it does not work."""

from __future__ import annotations

import sys

import pytest
import torch

from distill.models.base import feature_shapes
from distill.models.catalog import check_architecture, taps_of
from orchestrator.teacher_checks import network_problems
from tests.networks import build


def test_a_name_of_timm_may_end_in_the_tag_of_its_weights() -> None:
    for arch in ("timm/resnet18", "timm/resnet18.a1_in1k"):
        check_architecture(arch)
        assert taps_of(arch) is None
    for arch in ("timm/", "timm/hf-hub:someone/something", "timm/a/b"):
        with pytest.raises(ValueError, match="unknown architecture"):
            check_architecture(arch)


def test_networks_of_timm_are_tapped_by_module_path() -> None:
    model = build("timm/test_resnet", in_channels=1, taps=["layer2", "layer4"])
    assert model.taps == ("layer2", "layer4", "pooled")
    shapes = feature_shapes(model, 1, 32)
    assert (len(shapes["layer2"]), shapes["logits"]) == (3, (10,))
    output = model.eval()(torch.rand(2, 1, 32, 32))
    torch.testing.assert_close(model.classifier(output.features["pooled"]), output.logits)


def test_a_transformer_of_timm_is_built_for_the_size_of_the_images() -> None:
    model = build("timm/test_vit_relpos", image_size=64)
    assert feature_shapes(model, 3, 64)["logits"] == (10,)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet19", {}, r"no classifier 'resnet19'; did you mean .*'resnet1"),
        ("xyzzyxyzzy", {}, r"no classifier 'xyzzyxyzzy'; see timm.list_models"),
        (
            "test_resnet",
            {"pretrained": True},
            "cannot be built with .*multiple values .*pretrained",
        ),
        (
            "test_resnet",
            {"checkpoint_path": "x.pt"},
            "cannot be built with .*multiple values .*checkpoint_path",
        ),
        ("test_resnet", {"no_such_thing": 1}, "cannot be built with .*no_such_thing"),
        ("test_resnet", {"features_only": True}, r"gave list, not logits"),
    ],
)
def test_a_mistake_with_timm_is_explained(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(f"timm/{name}", options=options)


def test_without_timm_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm.*pip install 'tutelage\[timm\]'"):
        build("timm/test_resnet")
    (problem,) = network_problems("timm/test_resnet", {}, "teachers[0]")  # before torch is imported
    assert problem.startswith("teachers[0].arch: 'timm/test_resnet' needs timm")
