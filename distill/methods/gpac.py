"""GPAC: the teacher of each stage chosen by probes, targets that lean to the student, a schedule.

Neural Networks 164, 2023. Only the abstract is public: every formula here is our reading of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, final

from pydantic import Field, field_validator, model_validator

from distill import losses
from distill.methods.base import Method, Needs
from distill.probes import MAKE, ProbedConfig, ProbeTable
from distill.signals import (
    LossReport,
    ModelOutput,
    Progress,
    SignalShapes,
    Taps,
    TeacherName,
    TeacherSignals,
)
from distill.taps import Hint, needs_of, parse_groups, stage_hints

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn


@final
class Config(ProbedConfig):
    """L = CE + alpha · mean over teachers of mean L_k + weight(epoch) · Σ over stages of L_SA.

    L_k is τ²KL to teacher k's corrected target. ``assignment`` names the teacher of each stage, as
    in s1:t0,s2:t1; without it, ``probes`` is the file of a probe table, and the teacher whose
    stage's probe is best is taken.
    """

    temperature: float = Field(default=4.0, gt=0)
    alpha: float = Field(default=1.0, ge=0)
    # blend: the target leans to the student, the more the further it is; scale: one learnt scale
    # of the student's logits a teacher; none: the teachers' own targets.
    corrector: Literal["blend", "scale", "none"] = "blend"
    strength: float = Field(default=0.5, ge=0)  # λ of blend
    attention_weight: float = Field(default=1000.0, ge=0)
    # Factors of attention_weight; level i+1 begins at the fraction breakpoints[i] of the epochs.
    levels: tuple[float, ...] = Field(default=(1.0, 0.5, 0.1), min_length=1)
    breakpoints: tuple[float, ...] = (5 / 8, 3 / 4)
    assignment: str = ""

    @field_validator("levels")
    @classmethod
    def _no_negative_level(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if min(levels) < 0:
            raise ValueError(f"{list(levels)} holds a negative level; give levels of 0 or more")
        return levels

    @model_validator(mode="after")
    def _levels_fit_breakpoints(self) -> Self:
        if len(self.levels) != len(self.breakpoints) + 1:
            raise ValueError(
                f"levels: {len(self.levels)} for {len(self.breakpoints)} breakpoints; give exactly "
                "one level more than breakpoints"
            )
        if list(self.breakpoints) != sorted(self.breakpoints):
            raise ValueError(f"breakpoints: {list(self.breakpoints)} must rise; sort them")
        return self

    def hints(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> tuple[Hint, ...]:
        """Each stage beside its teacher's counterpart, as attention maps.

        Raises ValueError naming the field.
        """
        if not self.attention_weight:
            return ()
        if self.assignment:
            try:
                groups = parse_groups(self.assignment)
                return stage_hints(groups, teachers, student, form="attention")
            except ValueError as error:
                raise ValueError(f"assignment: {error}") from None
        if not self.probes:
            raise ValueError(
                "assignment: is empty, and so is probes; name the teacher of each stage, as in "
                "s1:t0,s2:t1,s3:t0, or give the file of a probe table in probes: "
                f"{MAKE} writes one"
            )
        groups = ProbeTable.read(Path(self.probes)).best_groups(teachers, student)
        return stage_hints(groups, teachers, student, form="attention")

    @property
    def reads_table(self) -> bool:
        return bool(self.probes and self.attention_weight and not self.assignment)

    def with_choice(self, groups: Sequence[tuple[int, int]]) -> Self:
        chosen = ",".join(f"s{stage}:t{teacher}" for stage, teacher in groups)
        return self.model_copy(update={"assignment": chosen, "probes": ""})

    def needs(self, teachers: Mapping[TeacherName, Taps], student: Taps) -> Needs:
        return needs_of(self.hints(teachers, student), logits=teachers)

    def build(self, shapes: SignalShapes) -> Method:
        return GuidedCorrection(self, shapes)


@final
class GuidedCorrection(Method):
    """Divergences from corrected targets, and attention that the chosen teachers guide."""

    def __init__(self, config: Config, shapes: SignalShapes) -> None:
        from torch import nn

        from distill.adapters import TeacherScales

        self.config = config
        self.hints = config.hints(shapes.taps, shapes.student)
        self.parts = nn.ModuleDict()
        if config.corrector == "scale":
            self.scales = TeacherScales(num_teachers=len(shapes.teachers))
            self.parts["scales"] = self.scales

    def loss(
        self,
        student: ModelOutput,
        teachers: TeacherSignals,
        labels: Int[Tensor, " B"],
        *,
        progress: Progress,
    ) -> LossReport:
        from torch.nn import functional as F

        kl_TB, correction_TB = self._corrected(student.logits, teachers.logits())
        terms = {
            "ce": F.cross_entropy(student.logits, labels),
            "kd": self.config.alpha * kl_TB.mean(),
        }
        if self.hints:
            terms["attention"] = self._attention(student, teachers, progress)
        scalars = {
            f"correction/{name}": of_teacher.mean()
            for name, of_teacher in zip(teachers.teachers, correction_TB.detach(), strict=True)
        }
        return LossReport(terms, scalars=scalars)

    def _corrected(
        self, student_BC: Float[Tensor, "B C"], teachers_TBC: Float[Tensor, "T B C"]
    ) -> tuple[Float[Tensor, "T B"], Float[Tensor, "T B"]]:
        """The divergences from the corrected targets, and how strongly each was corrected.

        The strength is ω_k for blend and r_k for scale; 0 without a corrector.
        """
        config = self.config
        match config.corrector:
            case "blend":
                strength_TB = losses.blend_weights(
                    student_BC,
                    teachers_TBC,
                    temperature=config.temperature,
                    strength=config.strength,
                )
                teachers_TBC = losses.blended_logits(student_BC, teachers_TBC, strength_TB)
            case "scale":
                student_BC = self.scales(student_BC)
                strength_TB = self.scales.bounded().unsqueeze(1).expand(teachers_TBC.shape[:2])
            case "none":
                strength_TB = teachers_TBC.new_zeros(teachers_TBC.shape[:2])
        kl_TB = losses.kl_divergence(student_BC, teachers_TBC, temperature=config.temperature)
        return kl_TB, strength_TB

    def _attention(
        self, student: ModelOutput, teachers: TeacherSignals, progress: Progress
    ) -> Tensor:
        import torch

        weight = losses.stepped_weight(
            progress.epoch,
            num_epochs=progress.num_epochs,
            base=self.config.attention_weight,
            levels=self.config.levels,
            breakpoints=self.config.breakpoints,
        )
        distances: list[Tensor] = []
        for hint in self.hints:
            goal = teachers.of(hint.teacher, hint.spec)
            own = losses.attention_like(student.features[hint.student_tap], goal)
            distances.append(losses.mean_squared_error(own, goal).mean())
        return weight * torch.stack(distances).sum()

    def inference_model(self, student: nn.Module) -> nn.Module:
        return student
