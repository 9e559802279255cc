"""Adaptive multi-teacher multi-level distillation: weights a sample, hints a group of layers.

Liu, Zhang, Wang: Adaptive Multi-Teacher Multi-level Knowledge Distillation, Neurocomputing 415,
2020. Where the published code and the paper's intent differ, this is the intent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from pydantic import Field

from distill import losses
from distill.methods.base import Method, MethodConfig, Needs
from distill.signals import (
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    Taps,
    TeacherName,
    TeacherSignals,
)
from distill.taps import (
    Hint,
    every_group,
    needs_of,
    parse_groups,
    pooled_hints,
    stage_hints,
    turn_by_turn,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn


@final
class Config(MethodConfig):
    """L = (1 − alpha)·CE + alpha·τ²KL(p ‖ student) + angle + hints + decay.

    p = Σ μ_k·softmax(z_k/τ), μ from a gate on the student's pooled feature. The first
    ``gate_epochs`` train gate and student together; afterwards the gate is frozen.
    """

    # τ, alpha and the coefficients 1: the authors'.
    temperature: float = Field(default=5.0, gt=0)
    alpha: float = Field(default=0.7, ge=0, le=1)
    angle_weight: float = Field(default=1.0, ge=0)
    hint_weight: float = Field(default=1.0, ge=0)
    # Which teacher hints which stage: s1:t0,s2:t1; all (every stage, every teacher); none; or, by
    # default, teachers in turn.
    hint_groups: str = ""
    gate_epochs: int = Field(default=60, ge=0)  # our reading: a quarter of the default schedule
    gate_detach: bool = True  # the target's weights send no gradient into the student
    # Ours: the published 0.1 shrinks the gate to uniform weights.
    gate_decay: float = Field(default=1e-4, ge=0)

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """The hints that ``hint_groups`` names. Raises ValueError naming the field."""
        if self.hint_groups == "none" or not self.hint_weight:
            return ()
        if self.hint_groups == "all":
            return stage_hints(every_group(teachers, student), teachers, student)
        if not self.hint_groups:
            return stage_hints(turn_by_turn(teachers, student), teachers, student)
        try:
            return stage_hints(parse_groups(self.hint_groups), teachers, student)
        except ValueError as error:
            raise ValueError(f"hint_groups: {error}; or write all, or none") from None

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student), logits=teachers)

    def build(self, shapes: SignalShapes) -> Method:
        return AdaptiveMultiTeacher(self, shapes)


@final
class AdaptiveMultiTeacher(Method):
    """A gate that mixes the teachers' probabilities for each sample, angles, and hints."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill.adapters import HintRegressor, SampleGate

        self.config = config
        self.hints = config.hints(shapes.taps, shapes.student)
        self.gate_tap = pooled_hints(shapes.taps, shapes.student)[0].student_tap
        self.gate = SampleGate(
            num_teachers=len(shapes.teachers), width=shapes.student[self.gate_tap][0]
        )
        self.regressors = nn.ModuleList(
            HintRegressor(
                student_channels=shapes.student[hint.student_tap][0],
                teacher_channels=shapes.teachers[hint.teacher][hint.spec][0],
            )
            for hint in self.hints
        )
        self.parts = nn.ModuleDict({"gate": self.gate, "regressors": self.regressors})

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        from torch.nn import functional as F

        config = self.config
        self.gate.requires_grad_(progress.epoch < config.gate_epochs)
        log_weights_BT = self._log_weights(student)
        target_BC = losses.mixture_log_probs(
            teachers.logits(), log_weights_BT, temperature=config.temperature
        )
        kl_B = losses.divergence_from_log_probs(
            student.logits, target_BC, temperature=config.temperature
        )
        terms = {
            "ce": (1 - config.alpha) * F.cross_entropy(student.logits, labels),
            "kd": config.alpha * kl_B.mean(),
            "gate": config.gate_decay * self.gate.squared_norm(),
        }
        if config.angle_weight:
            softened_BC = F.softmax(student.logits / config.temperature, dim=-1)
            angle_B = losses.angle_loss(softened_BC, target_BC.exp())
            terms["angle"] = config.angle_weight * angle_B.mean()
        if self.hints:
            terms["hint"] = config.hint_weight * self._hint_loss(student, teachers)
        weights = dict(zip(teachers.teachers, log_weights_BT.exp().T, strict=True))
        return LossReport(terms, weights={"teacher_weight": weights})

    def _log_weights(self, student: ModelOutput) -> Float[Tensor, "B T"]:
        pooled = losses.pooled_vector(student.features[self.gate_tap])
        return self.gate(pooled.detach() if self.config.gate_detach else pooled)

    def _hint_loss(self, student: ModelOutput, teachers: TeacherSignals) -> Tensor:
        """The sum over groups of mean (R(n(F_s)) − n(F_k))², n a unit vector at each position."""
        import torch

        from distill.adapters import project_to_match

        distances: list[Tensor] = []
        for hint, regressor in zip(self.hints, self.regressors, strict=True):
            projected, target = project_to_match(
                regressor,
                student.features[hint.student_tap],
                teachers.of(hint.teacher, hint.spec),
            )
            goal = losses.normalise_channels(target)
            distances.append(losses.mean_squared_error(projected, goal).mean())
        return torch.stack(distances).sum()

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
