"""One ``Experiment``: YAML and dotted overrides in, one frozen, validated object out.

Nothing here imports torch or ray: a mistake is answered in well under a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, final

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from distill.datasets import DataConfig
from distill.frozen import Frozen
from distill.methods import MethodConfig, config_class
from distill.models.catalog import check_architecture, check_taps
from distill.signals_config import Signals
from distill.storage import HomePath, runs_folder
from distill.views import CropFlip, ViewSpace
from distill.workers_config import Gpus, Workers

AUTO = "auto"
EMBEDDED = "embedded/"

# Part of a path: '..' must not lead out of the folder of runs.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
# What numpy and torch take, and YAML's readers keep exactly.
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def as_method(value: Any) -> Any:
    """``kd``, or ``{name: kd, temperature: 2}``, to the method's own configuration."""
    if isinstance(value, MethodConfig):
        return value
    fields: dict[Any, Any] = {"name": value} if isinstance(value, str) else {}
    if isinstance(value, Mapping):
        fields |= value
    if "name" not in fields:
        raise ValueError("a method needs its name, as in {name: kd, temperature: 4}")
    return config_class(str(fields.pop("name"))).model_validate(fields)


AnyMethod = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(as_method)]


@final
class Normalization(Frozen):
    """Per-channel mean and standard deviation of images in 0..1."""

    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]


@final
class SGD(Frozen):
    """Stochastic gradient descent; heavy-ball momentum unless ``nesterov``."""

    name: Literal["sgd"] = "sgd"
    # The setting of the CIFAR distillation benchmarks (Tian et al., ICLR 2020).
    lr: PositiveFloat = 0.05
    momentum: Fraction = 0.9
    weight_decay: float = Field(default=5e-4, ge=0)
    nesterov: bool = False
    clip_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0; set momentum, or nesterov: false")
        return self


@final
class AdamW(Frozen):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    name: Literal["adamw"]
    lr: PositiveFloat = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: PositiveFloat | None = None


def _default_optimizer_name(value: Any) -> Any:
    """``optimizer: {lr: 0.1}`` is SGD."""
    return {"name": "sgd", **value} if isinstance(value, dict) else value


Optimizer = Annotated[
    SGD | AdamW, Field(discriminator="name"), BeforeValidator(_default_optimizer_name)
]


@final
class Schedule(Frozen):
    """How long to train, and the learning rate's course, as a function of progress alone."""

    epochs: PositiveInt = 240
    batch_size: PositiveInt = 64  # global: over all workers
    kind: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Fraction = 0.0  # of training, with a linearly rising rate
    # 150, 180 and 210 of 240 epochs (Tian et al., ICLR 2020), as fractions of training.
    milestones: tuple[Fraction, ...] = (0.625, 0.75, 0.875)
    gamma: PositiveFloat = 0.1  # the factor at each milestone


@final
class Training(Frozen):
    """How ``checkpoint: auto`` trains a teacher."""

    optimizer: Optimizer = SGD()
    schedule: Schedule = Schedule()
    seed: Seed = 0
    data: DataConfig | None = None  # default: the experiment's own


@final
class Network(Frozen):
    """An architecture by name, with its options."""

    arch: str
    options: dict[str, Any] = Field(default={})
    # From the image to the classifier, by module path; the zoo's networks know their own.
    taps: tuple[str, ...] = ()

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        check_architecture(arch)
        return arch

    @model_validator(mode="after")
    def _known_taps(self) -> Self:
        check_taps(self.arch, self.taps)
        return self


@final
class Teacher(Frozen):
    """A trained network, and the actors that serve it."""

    name: Name  # default: the architecture's
    arch: str
    options: dict[str, Any] = Field(default={})
    taps: tuple[str, ...] = ()  # as a student's
    checkpoint: str = AUTO  # a file, embedded/NAME, or auto: trained once and filed
    # Where its classes are not the data's, one of two. Either those of its outputs that answer for
    # the data's classes, in the data's order; or what each of its outputs stands for, in its own.
    outputs: tuple[NonNegativeInt, ...] = ()
    classes: tuple[str, ...] = ()
    normalization: Normalization | None = None  # default: the data's own
    training: Training = Training()
    actors: PositiveInt = 1
    cpus: float = Field(default=1.0, ge=0)  # of each actor
    gpus: Gpus = 0.0  # below 1: actors share a GPU
    batch_size: PositiveInt = 256  # of a forward pass

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        check_architecture(arch)
        return arch

    @model_validator(mode="after")
    def _known_taps(self) -> Self:
        check_taps(self.arch, self.taps)
        return self

    @field_validator("outputs", "classes")
    @classmethod
    def _distinct(cls, values: tuple[int | str, ...]) -> tuple[int | str, ...]:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value!r} is given twice; give each once")
        return values

    @model_validator(mode="after")
    def _classes_that_can_be_mapped(self) -> Self:
        if self.outputs and self.classes:
            raise ValueError("outputs: 'classes' says the same; give one of them")
        if (self.outputs or self.classes) and self.checkpoint == AUTO and not self.training.data:
            field = "outputs" if self.outputs else "classes"
            raise ValueError(
                f"{field}: checkpoint: auto trains the teacher on the experiment's own classes; "
                "leave it out, or give training.data of more classes"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "name" in value:
            return value
        # Without an arch that is the mistake to tell of, not the name.
        arch = str(value.get("arch", "teacher"))
        return {"name": arch.rpartition("/")[2].replace(":", "."), **value}


@final
class Output(Frozen):
    """Where run folders lie."""

    # Default: runs, here or in $TUTELAGE_STORAGE.
    root: HomePath = Field(default_factory=runs_folder)


@final
class Experiment(Frozen):
    """Everything that a comparison of students needs; its defaults are the published settings."""

    name: Name
    data: DataConfig
    views: ViewSpace = CropFlip(kind="crop_flip")
    teachers: tuple[Teacher, ...] = ()
    student: Network
    method: AnyMethod
    baselines: tuple[AnyMethod, ...] = ()  # trained under the same protocol, for comparison
    signals: Signals = Field(default_factory=Signals)
    optimizer: Optimizer = SGD()
    schedule: Schedule = Schedule()
    workers: Workers = Workers()
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    output: Output = Field(default_factory=Output)

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{list(seeds)} repeats a seed; give distinct ones")
        return seeds

    @field_validator("teachers")
    @classmethod
    def _distinct_names(cls, teachers: tuple[Teacher, ...]) -> tuple[Teacher, ...]:
        names = [teacher.name for teacher in teachers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two teachers are called '{name}'; give each its own name")
        return teachers

    @property
    def methods(self) -> tuple[MethodConfig, ...]:
        """The baselines, then the method."""
        return (*self.baselines, self.method)

    @property
    def num_passes(self) -> int:
        """Passes that are recorded: epoch e reads pass e mod num_passes."""
        most = min(self.schedule.epochs, self.views.num_views)
        return min(self.signals.passes or most, most)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as written to YAML; ``Experiment.model_validate`` reads them back."""
        return self.model_dump(mode="json")
