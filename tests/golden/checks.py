"""What each golden case means in terms of ``distill``: arrays in, the arrays to compare out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill import adapters, losses
from tests.golden.case import Case, Outputs
from tests.golden.mmkd import mmkd_losses, mmkd_meta_step

_BOTTLENECK_LAYERS = {str(i): f"layers.{i}" for i in (0, 1, 3, 4, 6, 7)}


def kd(case: Case) -> Outputs:
    student = case.leaf("student_logits")
    per_sample = losses.kl_divergence(
        student, case["teacher_logits"], temperature=case.hp["temperature"]
    )
    loss = per_sample.mean()
    grads = case.gradients(loss, {"student_logits": student})
    return {"per_sample": per_sample, "loss": loss, **grads}


def dkd(case: Case) -> Outputs:
    student, hp = case.leaf("student_logits"), case.hp
    loss = losses.decoupled_divergence(
        student,
        case["teacher_logits"],
        case["labels"],
        temperature=hp["temperature"],
        alpha=hp["alpha"],
        beta=hp["beta"],
    ).mean()
    return {"loss": loss, **case.gradients(loss, {"student_logits": student})}


def ebkd(case: Case) -> Outputs:
    return _weighted_kl(case, losses.entropy_weights(case["teacher_logits"]))


def camkd_logits(case: Case) -> Outputs:
    weights = losses.confidence_weights(case["teacher_logits"], case["labels"])
    return _weighted_kl(case, weights)


def _weighted_kl(case: Case, weights: Tensor) -> Outputs:
    student, teachers = case.leaf("student_logits"), case["teacher_logits"]
    divergences = losses.kl_divergence(student, teachers, temperature=case.hp["temperature"])
    loss = (weights * divergences).mean()
    return {"weights": weights, "loss": loss, **case.gradients(loss, {"student_logits": student})}


def camkd_features(case: Case) -> Outputs:
    count = case.count("projected_student_")
    students = {f"projected_student_{k}": case.leaf(f"projected_student_{k}") for k in range(count)}
    heads = zip(case.numbered("head_weight"), case.numbered("head_bias"), strict=True)
    projected = list(zip(students.values(), heads, strict=True))
    logits = torch.stack([losses.pooled_logits(s, weight=w, bias=b) for s, (w, b) in projected])
    weights = losses.confidence_weights(logits, case["labels"])
    pairs = zip(students.values(), case.numbered("teacher_features"), strict=True)
    distances = torch.stack([losses.mean_squared_error(s, t) for s, t in pairs])
    loss = (weights * distances).mean()
    return {"weights": weights, "loss": loss, **case.gradients(loss, students)}


def aekd_logits(case: Case) -> Outputs:
    student, teachers = case["student_logits"], case["teacher_logits"]
    temperature = case.hp["temperature"]
    weights = losses.agreement_weights(
        student, teachers, temperature=temperature, tolerance=case.hp["tolerance"]
    )
    divergences = losses.kl_divergence(student, teachers, temperature=temperature)
    return {"weights": weights, "loss": weights @ divergences.mean(1)}


def amtml(case: Case) -> Outputs:
    leaves = {name: case.leaf(name) for name in ("student_logits", "theta", "w", "gate_input")}
    gate = adapters.SampleGate(num_teachers=len(leaves["theta"]), width=len(leaves["w"]))
    log_weights = torch.func.functional_call(
        gate, {"theta": leaves["theta"], "w": leaves["w"]}, (leaves["gate_input"],)
    )
    student, temperature = leaves["student_logits"], case.hp["temperature"]
    target = losses.mixture_log_probs(case["teacher_logits"], log_weights, temperature=temperature)
    kl = losses.divergence_from_log_probs(student, target, temperature=temperature).mean()
    softened = F.softmax(student / temperature, dim=-1)
    angle = losses.angle_loss(softened, target.exp()).mean()
    (grad_angle,) = torch.autograd.grad(angle, [student], retain_graph=True)
    return {
        "weights": log_weights.exp(),
        "integrated_target": target.exp(),
        "kl": kl,
        **case.gradients(kl, leaves),
        "angle_softmax": angle,
        "angle_logits": losses.angle_loss(student, target.exp()).mean(),
        "grad_angle_softmax": grad_angle,
    }


def amtml_hint(case: Case) -> Outputs:
    student, weight = case.leaf("student"), case.leaf("regressor_weight")
    regressor = adapters.HintRegressor(
        student_channels=weight.shape[1], teacher_channels=weight.shape[0]
    )
    pooled, teacher = losses.pool_to_smaller(student, case["teacher"])
    projected = torch.func.functional_call(regressor, {"conv.weight": weight}, (pooled,))
    loss = losses.mean_squared_error(projected, losses.normalise_channels(teacher)).mean()
    leaves = {"student": student, "regressor_weight": weight}
    return {"loss": loss, **case.gradients(loss, leaves)}


def attention_transfer(case: Case) -> Outputs:
    student = case.leaf("student")
    power = int(case.hp["p"])
    maps = (
        losses.attention_map(features, power=power)
        for features in losses.pool_to_smaller(student, case["teacher"])
    )
    loss = losses.mean_squared_error(*maps).mean()
    return {"loss": loss, **case.gradients(loss, {"student": student})}


def fitnet(case: Case) -> Outputs:
    student = case.leaf("projected_student")
    loss = losses.mean_squared_error(student, case["teacher"]).mean()
    return {"loss": loss, **case.gradients(loss, {"projected_student": student})}


def similarity_preserving(case: Case) -> Outputs:
    return _relation(case, losses.similarity_preserving, losses.similarities)


def rkd(case: Case) -> Outputs:
    return _relation(case, losses.relational_loss, losses.relations)


def pkt(case: Case) -> Outputs:
    return _relation(case, losses.probabilistic_transfer)


def _relation(
    case: Case, function: Callable[..., Tensor], of_batch: Callable[[Tensor], Any] = lambda x: x
) -> Outputs:
    student = case.leaf("student")
    loss = function(of_batch(student), of_batch(case["teacher"]), **case.hp).mean()
    return {"loss": loss, **case.gradients(loss, {"student": student})}


def simkd_projector(case: Case) -> Outputs:
    student, teacher = case.leaf("student"), case["teacher"]
    projector = adapters.BottleneckProjector(
        student_channels=student.shape[1],
        teacher_channels=teacher.shape[1],
        factor=int(case.hp["factor"]),
    )
    case.load(projector, "projector.transfer.", _BOTTLENECK_LAYERS)
    projected, pooled = adapters.project_to_match(projector, student, teacher)
    weight, bias = case["classifier_weight"], case["classifier_bias"]
    loss = losses.mean_squared_error(projected, pooled).mean()
    return {
        "projected_student": projected,
        "pooled_teacher": pooled,
        "student_prediction": losses.pooled_logits(projected, weight=weight, bias=bias),
        "loss": loss,
        **case.gradients(loss, {"student": student}),
    }


CHECKS: dict[str, Callable[[Case], Outputs]] = {
    check.__name__: check
    for check in (
        aekd_logits,
        amtml,
        amtml_hint,
        attention_transfer,
        camkd_features,
        camkd_logits,
        dkd,
        ebkd,
        fitnet,
        kd,
        mmkd_losses,
        mmkd_meta_step,
        pkt,
        rkd,
        similarity_preserving,
        simkd_projector,
    )
}
