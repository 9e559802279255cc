"""Architectures by name: misspelt ones, torchvision's and users' own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from distill.models.base import feature_shapes
from distill.models.catalog import check_architecture, taps_of
from distill.signals import ModelOutput
from tests.networks import build


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("resnet21", "did you mean 'resnet20'"),
        ("xyzzy", "architectures: resnet8, "),
        ("torchvision/", "Others: torchvision/NAME"),
        ("pkg.mod:", "Others: torchvision/NAME, timm/NAME, package.module:function"),
        ("", "unknown architecture ''"),
    ],
)
def test_an_unknown_architecture_is_refused_with_near_misses(arch: str, says: str) -> None:
    with pytest.raises(ValueError, match="unknown architecture") as caught:
        check_architecture(arch)
    assert says in str(caught.value)


def test_foreign_architectures_are_judged_when_they_are_built() -> None:
    for arch in ("torchvision/resnet18", "package.module:function"):
        check_architecture(arch)
        assert taps_of(arch) is None


def test_unknown_taps_and_options_are_refused_with_near_misses() -> None:
    with pytest.raises(ValueError, match=r"'resnet8' has no tap 'stage4'; .*'stage3'"):
        build("resnet8", taps=["stage4"])
    with pytest.raises(ValueError, match="'cnn_xs' takes no option 'nrom'; did you mean 'norm'"):
        build("cnn_xs", options={"nrom": "none"})
    with pytest.raises(ValueError, match="'resnet8' takes no option 'norm'"):
        build("resnet8", options={"norm": "none"})
    with pytest.raises(ValueError, match="'layer'; choose from 'batch', 'none'"):
        build("cnn_xs", options={"norm": "layer"})


def test_names_and_headers_are_checked_without_importing_torch() -> None:
    code = (
        "import sys, distill.models.catalog, distill.models.inspection;"
        "heavy = {'torch', 'torchvision', 'ray', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_torchvision_networks_are_tapped_by_module_path() -> None:
    model = build("torchvision/resnet18", taps=["layer1", "layer3.0", "pooled"])
    assert model.taps == ("layer1", "layer3.0", "pooled")
    assert feature_shapes(model, 3, 64) == {
        "layer1": (64, 16, 16),
        "layer3.0": (256, 4, 4),
        "pooled": (512,),
        "logits": (10,),
    }
    output = model(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(model.classifier(output.features["pooled"]), output.logits)
    assert output.features["layer1"].requires_grad


def test_a_tap_is_not_changed_by_the_layer_that_follows_in_place() -> None:
    model = build("torchvision/resnet18", taps=["bn1", "relu"]).eval()
    features = model(torch.randn(1, 3, 32, 32)).features
    assert features["bn1"].min() < 0
    torch.testing.assert_close(features["bn1"].relu(), features["relu"])


def test_torchvision_networks_take_grey_images_and_options() -> None:
    model = build("torchvision/mobilenet_v3_small", in_channels=1, options={"dropout": 0.5})
    assert feature_shapes(model, 1, 32)["logits"] == (10,)
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in model.modules())
    with pytest.raises(ValueError, match="'torchvision/resnet18' cannot be built with"):
        build("torchvision/resnet18", options={"drop": 0.5})


def test_torchvision_names_and_taps_are_checked_with_near_misses() -> None:
    with pytest.raises(ValueError, match=r"no classifier 'resnet19'; did you mean .*'resnet1"):
        build("torchvision/resnet19")
    with pytest.raises(ValueError, match=r"no tap 'layer5'; did you mean .*'layer"):
        build("torchvision/resnet18", taps=["layer5"])


def test_a_network_without_a_last_linear_layer_says_so() -> None:
    model = build("torchvision/squeezenet1_1")
    assert model.taps == ()
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        _ = model.classifier


@pytest.fixture
def user_code(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("user_code")
    monkeypatch.setitem(sys.modules, "user_code", module)
    return module


def plain(*, num_classes: int, in_channels: int, image_size: int, width: int = 4) -> nn.Module:
    hidden = nn.Conv2d(in_channels, width, image_size)
    return nn.Sequential(hidden, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(width, num_classes))


class SelfTapped(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.body(images), {"grey": images.mean(1)})


def test_a_users_function_is_built_with_its_options_and_tapped(user_code: ModuleType) -> None:
    user_code.plain = plain
    model = build("user_code:plain", options={"width": 6}, taps=["0"])
    assert feature_shapes(model, 3, 32) == {"0": (6, 1, 1), "pooled": (6,), "logits": (10,)}
    user_code.own = lambda **sizes: SelfTapped(plain(**sizes))
    model = build("user_code:own", taps=["grey", "body.0"])
    assert model.taps == ("body.0", "grey", "pooled")
    assert feature_shapes(model, 3, 32)["grey"] == (32, 32)
    user_code.zoo = lambda *, image_size, **sizes: build("resnet8", image_size=image_size, **sizes)
    assert build("user_code:zoo", taps=["stage3"]).taps == taps_of("resnet8")


def test_a_users_mistakes_are_explained(user_code: ModuleType) -> None:
    user_code.plain = plain
    user_code.number = lambda **_: 3
    user_code.wide = lambda *, num_classes, **sizes: plain(num_classes=num_classes + 1, **sizes)
    user_code.small = lambda *, image_size, **sizes: plain(image_size=image_size + 9, **sizes)
    user_code.zoo = lambda *, image_size, **sizes: build("resnet8", image_size=image_size, **sizes)
    cases = {
        "no_such_package.a:b": "no module 'no_such_package'; install it or put its folder on",
        "user_code:plan": "no function 'plan'; did you mean 'plain'",
        "user_code:number": "returned a int; it must return a torch.nn.Module",
        "user_code:wide": r"gave \[1, 11\], not logits \[1, 10\]",
        "user_code:small": r"failed for images \[1, 3, 32, 32\]",
        "user_code:zoo": "has no tap 'stage9'; did you mean",
    }
    for arch, message in cases.items():
        with pytest.raises(ValueError, match=message):
            build(arch, taps=["stage9"])
    with pytest.raises(ValueError, match=r"calling 'user_code:plain' failed.*'height'"):
        build("user_code:plain", options={"height": 3})
