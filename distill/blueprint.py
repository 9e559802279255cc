"""What an evaluated network is made of, without its weights: enough to build it again anywhere.

A run keeps one beside its checkpoints, so that neither teachers nor data are needed to load them.
Importing this imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

from pydantic import PositiveInt, ValidationError

from distill.config import AnyMethod, Network
from distill.frozen import Frozen
from distill.signals import LOGITS, SignalShapes, SignalSpec
from distill.taps import known_taps

if TYPE_CHECKING:
    from torch import Tensor

    from distill.methods import Method
    from distill.models.base import Normalized, TappedModel

MODEL_FILE = "model.json"  # a blueprint's, in the folder of a run


@final
class TeacherOutline(Frozen):
    """A teacher as a method is built for it. Shapes are those of one sample."""

    network: Network
    taps: dict[str, tuple[int, ...] | None]  # from the image to the classifier
    signals: dict[str, tuple[int, ...]] | None = None  # that the method reads; None: resident
    classifier: tuple[int, int] | None = None  # rows and columns, where the method reads it
    classifier_bias: bool = False


@final
class Blueprint(Frozen):
    """A student, the method that teaches it, and all that both are shaped by."""

    num_classes: PositiveInt
    class_names: tuple[str, ...]
    in_channels: PositiveInt
    image_size: PositiveInt  # pixels a side
    mean: tuple[float, ...]  # that the student normalises images in 0..1 with, by channel
    std: tuple[float, ...]
    student: Network
    method: AnyMethod
    batch_size: PositiveInt  # of one worker
    teachers: dict[str, TeacherOutline]  # those that the method uses

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a JSON file. Raises ValueError naming the file and what is wrong with it."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False)
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise ValueError(
                f"'{path}' does not describe a network: {place}: {first['msg']}"
            ) from None

    def build_network(self, network: Network) -> TappedModel:
        """``network`` for images and classes of this size, with weights from torch's RNG."""
        from distill.models import build_model

        return build_model(
            network.arch,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            image_size=self.image_size,
            options=network.options,
            taps=network.taps,
        )

    def normalized(self, network: Network) -> Normalized:
        """``network`` behind the student's normalisation: takes images as they are stored."""
        from distill.models.base import Normalized

        return Normalized(self.build_network(network), mean=self.mean, std=self.std)

    def build_student(self) -> Normalized:
        """The student with weights from torch's RNG; takes uint8 [B, c, h, w]."""
        return self.normalized(self.student)

    def build(self) -> tuple[Normalized, Method]:
        """Student and method as training makes them, with weights that mean nothing.

        Load a learner's state into them. No teacher's weights are needed: where one is part of
        the method, the state holds it.
        """
        import torch

        student = self.build_student()
        classifiers: dict[str, tuple[Tensor, Tensor | None]] = {}
        residents: dict[str, Normalized] = {}
        for name, teacher in self.teachers.items():
            if teacher.classifier:
                bias = torch.zeros(teacher.classifier[0]) if teacher.classifier_bias else None
                classifiers[name] = (torch.zeros(teacher.classifier), bias)
            if self.method.resident:
                residents[name] = self.normalized(teacher.network)
        shapes = self.shapes(student, classifiers=classifiers, residents=residents)
        return student, self.method.build(shapes)

    def shapes(
        self,
        student: Normalized,
        *,
        classifiers: Mapping[str, tuple[Tensor, Tensor | None]],
        residents: Mapping[str, Normalized],
    ) -> SignalShapes:
        """What the method is built from, with the teachers' own parts where it holds any."""
        from distill.models.base import feature_shapes

        known = known_taps(self.student.arch, self.student.taps)
        found = feature_shapes(student.network, self.in_channels, self.image_size)
        return SignalShapes(
            num_classes=self.num_classes,
            batch_size=self.batch_size,
            student={tap: shape for tap, shape in found.items() if tap in (LOGITS, *known)},
            teachers={
                name: {SignalSpec.parse(text): shape for text, shape in teacher.signals.items()}
                for name, teacher in self.teachers.items()
                if teacher.signals is not None
            },
            taps={name: teacher.taps for name, teacher in self.teachers.items()},
            classifiers=classifiers,
            residents=residents,
        )
