"""The small trainable modules that stand between a student and its teachers.

Legend: T teachers, B samples, C classes, c student channels, d teacher channels, h height, w width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from torch.nn import functional as F

from distill.losses.feature import normalise_channels, pool_to_smaller
from distill.losses.precision import gram
from distill.signals import ModelOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, UInt8
    from torch import Tensor


@final
class SampleGate(nn.Module):
    """AMTML-KD's gate: softmax over k of wᵀ(θ_k ⊙ β), a weight for every sample and teacher.

    θ [T, width] and w [width] start as N(0, 1). Source: Liu, Zhang, Wang 2020, eqs. 2 and 3.
    """

    def __init__(self, *, num_teachers: int, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(num_teachers, width))
        self.w = nn.Parameter(torch.randn(width))

    def forward(self, student: Float[Tensor, "B width"]) -> Float[Tensor, "B T"]:
        """The weights' logarithms, for ``losses.mixture_log_probs``; detach the input at will."""
        return F.log_softmax(student @ (self.theta * self.w).T, dim=-1)

    def squared_norm(self) -> Float[Tensor, ""]:
        """‖w‖² + Σ‖θ_k‖², to be weighted by λ."""
        return self.w.square().sum() + self.theta.square().sum()


@final
class HintRegressor(nn.Module):
    """AMTML-KD's R_g: a 1×1 convolution without bias on channel-normalised features.

    Compare its output with ``losses.normalise_channels`` of the teacher's map.
    """

    def __init__(self, *, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)

    def forward(self, features: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d h w"]:
        return self.conv(normalise_channels(features))


@final
class ChannelProjector(nn.Module):
    """1×1 convolution → BatchNorm → ReLU: the projector of MMKD, CA-MKD and FitNet here."""

    def __init__(self, *, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1),
            nn.BatchNorm2d(teacher_channels),
            nn.ReLU(),
        )

    def forward(self, features: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d h w"]:
        return self.layers(features)


@final
class BottleneckProjector(nn.Module):
    """SimKD's projector: 1×1 to d/factor, 3×3, 1×1 to d, each with BatchNorm and ReLU.

    Raises ValueError when ``factor`` leaves no channel.
    Source: Chen et al. 2022, Reused Teacher Classifier (arXiv 2203.14001).
    """

    def __init__(self, *, student_channels: int, teacher_channels: int, factor: int = 2) -> None:
        super().__init__()
        if not 1 <= factor <= teacher_channels:
            raise ValueError(
                f"factor {factor} must lie between 1 and the teacher's {teacher_channels} channels"
            )
        width = teacher_channels // factor
        self.layers = nn.Sequential(
            nn.Conv2d(student_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, teacher_channels, 1, bias=False),
            nn.BatchNorm2d(teacher_channels),
            nn.ReLU(),
        )

    def forward(self, features: Float[Tensor, "B c h w"]) -> Float[Tensor, "B d h w"]:
        return self.layers(features)


def frozen_classifier(weight: Float[Tensor, "C d"], bias: Float[Tensor, " C"] | None) -> nn.Linear:
    """A teacher's last layer as it is: no gradient, no update."""
    num_classes, width = weight.shape
    linear = nn.Linear(width, num_classes, bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.requires_grad_(False)


@final
class SharedHeads(nn.Module):
    """SimKD's way from the student's last map to logits: projectors, then teachers' classifiers.

    ``sizes`` are the heights and widths that the student's map is pooled to, teacher by teacher,
    where it is larger. Source: as ``BottleneckProjector``; several teachers are our reading.
    """

    def __init__(
        self, projectors: nn.ModuleList, classifiers: nn.ModuleList, *, sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.projectors = projectors
        self.classifiers = classifiers
        self.sizes = tuple(sizes)

    def project(self, features: Float[Tensor, "B c h w"]) -> list[Float[Tensor, "B d p q"]]:
        """The student's map as each teacher's, in their order."""
        projected: list[Tensor] = []
        for projector, size in zip(self.projectors, self.sizes, strict=True):
            larger = size < features.shape[-1]
            projected.append(
                projector(F.adaptive_avg_pool2d(features, size) if larger else features)
            )
        return projected

    def classify(self, projected: Sequence[Float[Tensor, "B d p q"]]) -> Float[Tensor, "B C"]:
        """The logarithm of the classifiers' mean probabilities, which serves as logits."""
        answers = [
            F.log_softmax(classifier(features.mean((2, 3))), dim=-1)
            for features, classifier in zip(projected, self.classifiers, strict=True)
        ]
        return torch.stack(answers).logsumexp(0) - math.log(len(answers))

    def forward(self, features: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C"]:
        return self.classify(self.project(features))


@final
class WithSharedHeads(nn.Module):
    """A student whose logits are those of its shared heads; its own last layer is not used."""

    def __init__(self, student: nn.Module, heads: SharedHeads, *, tap: str) -> None:
        super().__init__()
        self.student = student
        self.heads = heads
        self.tap = tap

    def forward(self, images: UInt8[Tensor, "B c h w"]) -> ModelOutput:
        """As ``Normalized``: images as they are stored."""
        output: ModelOutput = self.student(images)
        return ModelOutput(self.heads(output.features[self.tap]), output.features)


def project_to_match(
    projector: Callable[[Tensor], Tensor],
    student: Float[Tensor, "B c h w"],
    teacher: Float[Tensor, "B d i j"],
) -> tuple[Float[Tensor, "B d p q"], Float[Tensor, "B d p q"]]:
    """The projected student's and the teacher's map, the larger one average-pooled beforehand."""
    student, teacher = pool_to_smaller(student, teacher)
    return projector(student), teacher


@final
class LogitWeightNet(nn.Module):
    """MMKD's weights of the teachers' logits, from all logits: softmax over teachers.

    The student's logits are inputs without gradient. Source: Zhang, Chen, Wang 2023 (2306.06634).
    """

    def __init__(self, *, num_teachers: int, num_classes: int) -> None:
        super().__init__()
        self.hidden, self.output = _two_layers(num_classes * (num_teachers + 1), num_teachers)

    def forward(
        self, student: Float[Tensor, "B C"], teachers: Float[Tensor, "T B C"]
    ) -> Float[Tensor, "B T"]:
        inputs = torch.cat([*teachers, student.detach()], dim=-1)
        return F.softmax(self.output(F.relu(self.hidden(inputs))), dim=-1)


@final
class FeatureWeightNet(nn.Module):
    """MMKD's weights of the teachers' features, from Gram matrices: softmax over teachers.

    Its width is the batch's: raises ValueError for a batch of another size.
    The student's Gram matrix is an input without gradient. Source: as ``LogitWeightNet``.
    """

    def __init__(self, *, num_teachers: int, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.hidden, self.output = _two_layers(batch_size * (num_teachers + 1), num_teachers)

    def forward(
        self, student: Float[Tensor, " B *n"], teachers: Sequence[Float[Tensor, "B ..."]]
    ) -> Float[Tensor, "B T"]:
        if len(student) != self.batch_size:
            raise ValueError(
                f"a batch of {len(student)} samples: the feature weights were built for "
                f"{self.batch_size}; use full batches and one batch size"
            )
        flat = [features.flatten(1) for features in (*teachers, student.detach())]
        inputs = torch.cat([gram(features) for features in flat], dim=-1)
        return F.softmax(self.output(F.relu(self.hidden(inputs))), dim=-1)


def _two_layers(num_inputs: int, num_outputs: int) -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(num_inputs, num_inputs // 2), nn.Linear(num_inputs // 2, num_outputs)


@final
class TeacherScales(nn.Module):
    """GPAC's ``scale`` corrector: r_k·z_s, one learnable r_k a teacher, kept within its bounds.

    At a bound, only gradients that lead back inside reach r_k: a plain clamp would hold it there
    for ever. GPAC (Neural Networks 164, 2023), our reading.
    """

    def __init__(self, *, num_teachers: int, lowest: float = 0.1, highest: float = 10.0) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(num_teachers))
        self.lowest, self.highest = lowest, highest

    def forward(self, student: Float[Tensor, "B C"]) -> Float[Tensor, "T B C"]:
        """The student's logits as each teacher's divergence sees them."""
        return self.bounded()[:, None, None] * student

    def bounded(self) -> Float[Tensor, " T"]:
        """Every r_k within its bounds."""
        return _InwardClamp.apply(self.scales, self.lowest, self.highest)


class _InwardClamp(torch.autograd.Function):
    """A clamp that descent can leave: at a bound outward gradients end, inward ones pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lowest: float, highest: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.bounds = (lowest, highest)
        return values.clamp(lowest, highest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        (grad,) = grads
        lowest, highest = ctx.bounds
        outward = ((values <= lowest) & (grad > 0)) | ((values >= highest) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None
