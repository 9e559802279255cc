"""bfloat16 narrows forward passes, not the losses that are made of small differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import losses
from distill.adapters import FeatureWeightNet
from orchestrator.runs import RunFolder
from tests.export_helpers import job_of, train

B, N, C = 24, 32, 10


def clusters(seed: int) -> Tensor:
    """Ten groups of near points, far from the origin, in numbers that bfloat16 holds exactly."""
    draw = torch.Generator().manual_seed(seed)
    centres = 1 + torch.randn(C, N, generator=draw)
    points = centres[torch.arange(B) % C] + 0.1 * torch.randn(B, N, generator=draw)
    return points.bfloat16().float()


def confident(seed: int) -> Tensor:
    """Softened probabilities of networks that are sure of their class."""
    draw = torch.Generator().manual_seed(seed)
    logits = 10.0 * F.one_hot(torch.arange(B) % C, C) + torch.randn(B, C, generator=draw)
    return F.softmax(logits / 5, dim=-1)


RELATIONAL: dict[str, tuple[Callable[[int], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "rkd": (
        clusters,
        lambda s, t: losses.relational_loss(losses.relations(s), losses.relations(t)),
    ),
    "pkt": (clusters, losses.probabilistic_transfer),
    "sp": (
        clusters,
        lambda s, t: losses.similarity_preserving(losses.similarities(s), losses.similarities(t)),
    ),
    "angle": (confident, losses.angle_loss),
}


@pytest.mark.parametrize("name", RELATIONAL)
def test_relations_are_wide_under_autocast(name: str) -> None:
    draw, loss = RELATIONAL[name]
    teacher, found = draw(1), []
    for narrow in (False, True):
        student = draw(0).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            value = loss(student, teacher).mean()
        value.backward()
        found.append((value.detach(), student.grad))
    (wide, wide_gradient), (narrow, narrow_gradient) = found
    torch.testing.assert_close(narrow, wide)
    torch.testing.assert_close(narrow_gradient, wide_gradient)


def test_halves_are_widened_before_they_are_subtracted() -> None:
    student, teacher = clusters(0).bfloat16(), clusters(1).bfloat16()
    near = losses.relations(student).distances
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, losses.relations(student.float()).distances)
    assert losses.probabilistic_transfer(student, teacher).dtype == torch.float32


def test_the_weights_of_mmkd_are_of_wide_gram_matrices() -> None:
    net = FeatureWeightNet(num_teachers=1, batch_size=B)
    seen: list[Tensor] = []
    net.hidden.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for narrow in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            net(clusters(0), [clusters(1)])
    torch.testing.assert_close(seen[1], seen[0])


@pytest.mark.parametrize("method", ["kd", "rkd", "amtml", "simkd", "atsc"])
def test_methods_learn_in_bfloat16_what_they_learn_in_float32(
    method: str, fashion: Path, tmp_path: Path
) -> None:
    def first_epoch(precision: str) -> float:
        changes = {
            "method": method,
            "signals.source": "local",
            "schedule.epochs": 1,
            "workers.precision": precision,
            "output.root": str(tmp_path / precision),
        }
        job = train(job_of(fashion, tmp_path, changes))
        return float(RunFolder(job.folder).metrics()["loss/total"].iloc[0])

    narrow, wide = first_epoch("bfloat16"), first_epoch("float32")
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.05)
