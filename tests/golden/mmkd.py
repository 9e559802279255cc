"""The golden cases of MMKD: its losses, and the derivative through its virtual steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import adapters, losses
from distill.unrolled import unroll_sgd
from tests.golden.case import Case, Outputs

_PROJECTOR_LAYERS = {"0": "layers.0", "1": "layers.1"}
_NET_LAYERS = {"layer": "hidden", "all_act": "output"}
_PARTS = ("student.", "projector.")


def mmkd_losses(case: Case) -> Outputs:
    logits, features = case.leaf("student_logits"), case.leaf("student_features")
    teachers, teacher_features = case["teacher_logits"], case.numbered("teacher_features")
    case.unread("labels")
    logit_net, feature_net = _weight_nets(case, *teachers.shape)
    logit_weights = logit_net(logits, teachers)
    feature_weights = feature_net(features, teacher_features)
    projectors = [
        adapters.ChannelProjector(
            student_channels=features.shape[1], teacher_channels=teacher.shape[1]
        )
        for teacher in teacher_features
    ]
    for k, projector in enumerate(projectors):
        case.load(projector, f"projectors.regressor{k}.transfer.", _PROJECTOR_LAYERS)
    divergences = losses.kl_divergence(logits, teachers, temperature=case.hp["temperature"])
    distances = _feature_distances(projectors, features, teacher_features)
    loss_div = (logit_weights.T * divergences).sum(0).mean()
    loss_feat = (feature_weights.T * distances).sum(0).mean()
    return {
        "logit_weights": logit_weights,
        "feature_weights": feature_weights,
        "loss_div": loss_div,
        "loss_feat": loss_feat,
        **case.gradients(loss_div, {"student_logits": logits}),
        **case.gradients(loss_feat, {"student_features": features}),
    }


def mmkd_meta_step(case: Case) -> Outputs:
    hp, images, labels = case.hp, case["hard_images"], case["hard_labels"]
    teachers, teacher_features = case["hard_teacher_logits"], case.numbered("teacher_features")
    logit_net, feature_net = _weight_nets(case, *teachers.shape)

    def matching(parameters: Mapping[str, Tensor]) -> Tensor:
        features, logits = _small_student(parameters, images, stride=int(hp["c2_stride"]))
        projectors = [_pointwise(parameters, k) for k in range(len(teacher_features))]
        divergences = losses.kl_divergence(logits, teachers, temperature=hp["temperature"])
        distances = _feature_distances(projectors, features, teacher_features)
        div = (logit_net(logits, teachers).T * divergences).sum(0).mean()
        feat = (feature_net(features, teacher_features).T * distances).sum(0).mean()
        return hp["alpha"] * div + hp["beta"] * feat

    def classifying(parameters: Mapping[str, Tensor]) -> Tensor:
        _, logits = _small_student(parameters, images, stride=int(hp["c2_stride"]))
        return losses.cross_entropy(logits, labels).mean()

    num_matching, num_classifying = int(hp["virtual_matching_steps"]), int(hp["virtual_ce_steps"])
    end = unroll_sgd(
        [matching] * num_matching + [classifying] * num_classifying,
        {part + name: value for part in _PARTS for name, value in case.under(part).items()},
        case.under("momentum."),
        **{name: hp[name] for name in ("lr", "momentum", "weight_decay")},
        nesterov=bool(hp.get("nesterov", False)),
    )
    meta_loss = classifying(end.parameters)
    return {
        "virtual_losses": torch.stack(end.losses),
        "meta_loss": meta_loss,
        **_meta_gradients(meta_loss, {"logit_net": logit_net, "feature_net": feature_net}),
    }


def _meta_gradients(meta_loss: Tensor, nets: Mapping[str, nn.Module]) -> Outputs:
    names = {ours: published for published, ours in _NET_LAYERS.items()}
    psi: dict[str, Tensor] = {}
    for net, module in nets.items():
        for name, value in module.named_parameters():
            layer, kind = name.split(".")
            psi[f"meta_grad.{net}.{names[layer]}.{kind}"] = value
    return dict(zip(psi, torch.autograd.grad(meta_loss, list(psi.values())), strict=True))


def _weight_nets(
    case: Case, num_teachers: int, batch_size: int, num_classes: int
) -> tuple[nn.Module, nn.Module]:
    logit_net = adapters.LogitWeightNet(num_teachers=num_teachers, num_classes=num_classes)
    feature_net = adapters.FeatureWeightNet(num_teachers=num_teachers, batch_size=batch_size)
    case.load(logit_net, "logit_net.", _NET_LAYERS)
    case.load(feature_net, "feature_net.", _NET_LAYERS)
    return logit_net, feature_net


def _feature_distances(
    projectors: Sequence[Callable[[Tensor], Tensor]], student: Tensor, teachers: Sequence[Tensor]
) -> Tensor:
    pairs = [
        adapters.project_to_match(projector, student, teacher)
        for projector, teacher in zip(projectors, teachers, strict=True)
    ]
    return torch.stack([losses.mean_squared_error(*pair) for pair in pairs])


def _small_student(
    parameters: Mapping[str, Tensor], images: Tensor, *, stride: int
) -> tuple[Tensor, Tensor]:
    def layer(name: str) -> tuple[Tensor, Tensor]:
        return parameters[f"student.{name}.weight"], parameters[f"student.{name}.bias"]

    hidden = F.conv2d(images, *layer("c1"), stride=2, padding=1).tanh()
    features = F.conv2d(hidden, *layer("c2"), stride=stride, padding=1).tanh()
    weight, bias = layer("fc")
    return features, losses.pooled_logits(features, weight=weight, bias=bias)


def _pointwise(parameters: Mapping[str, Tensor], k: int) -> Callable[[Tensor], Tensor]:
    weight, bias = parameters[f"projector.p.{k}.weight"], parameters[f"projector.p.{k}.bias"]
    return lambda features: F.conv2d(features, weight, bias)
