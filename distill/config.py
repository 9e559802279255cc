"""One ``Experiment``: YAML and dotted overrides in, one frozen, validated object out.

Nothing here imports torch or ray: a mistake is answered in well under a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from distill.datasets import DataConfig
from distill.methods import MethodConfig, config_class
from distill.models.catalog import check_architecture, check_taps
from distill.storage import runs_folder, signals_root
from distill.views import CropFlip, ViewSpace

AUTO = "auto"
EMBEDDED = "embedded/"

# Part of a path: '..' must not lead out of the folder of runs.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
# What numpy and torch take, and YAML's readers keep exactly.
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
class Normalization(_Frozen):
    """Per-channel mean and standard deviation of images in 0..1."""

    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]


@final
class SGD(_Frozen):
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
class AdamW(_Frozen):
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
class Schedule(_Frozen):
    """How long to train, and the learning rate's course, as a function of progress alone."""

    epochs: PositiveInt = 240
    batch_size: PositiveInt = 64  # global: over all workers
    kind: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Fraction = 0.0  # of training, with a linearly rising rate
    # 150, 180 and 210 of 240 epochs (Tian et al., ICLR 2020), as fractions of training.
    milestones: tuple[Fraction, ...] = (0.625, 0.75, 0.875)
    gamma: PositiveFloat = 0.1  # the factor at each milestone


@final
class Training(_Frozen):
    """How ``checkpoint: auto`` trains a teacher."""

    optimizer: Optimizer = SGD()
    schedule: Schedule = Schedule()
    seed: Seed = 0
    data: DataConfig | None = None  # default: the experiment's own


@final
class Network(_Frozen):
    """An architecture by name, with its options."""

    arch: str
    options: dict[str, Any] = {}
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
class Teacher(_Frozen):
    """A trained network, and the actors that serve it."""

    name: Name  # default: the architecture's
    arch: str
    options: dict[str, Any] = {}
    taps: tuple[str, ...] = ()  # as a student's
    checkpoint: str = AUTO  # a file, embedded/NAME, or auto: trained once and filed
    normalization: Normalization | None = None  # default: the data's own
    training: Training = Training()
    actors: PositiveInt = 1
    cpus: float = Field(default=1.0, ge=0)  # of each actor
    gpus: float = Field(default=0.0, ge=0)
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

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "name" in value:
            return value
        # Without an arch that is the mistake to tell of, not the name.
        arch = str(value.get("arch", "teacher"))
        return {"name": arch.rpartition("/")[2].replace(":", "."), **value}


@final
class Signals(_Frozen):
    """Where teachers' signals come from, and how they are kept."""

    source: Literal["cached", "served", "local"] = "cached"
    # A folder, or a URL that fsspec opens: s3://bucket/prefix. Default: $TUTELAGE_SIGNALS, else
    # signals in $TUTELAGE_CACHE or ~/.cache/tutelage.
    root: str = Field(default_factory=signals_root)
    mirror: Path | None = None  # of a URL: each node's copies; default: beside signals, /mirrors
    mirror_bytes: PositiveInt | None = None  # of copies on a node; default: all are kept
    passes: PositiveInt | None = None  # passes to record, reused in turn; default: one an epoch
    plan_seed: int = 0
    ahead: PositiveInt = 2  # epochs that recording may be ahead of training, with retain: window
    retain: Literal["all", "window"] = "all"  # window: delete passes that every run has left
    part_size: PositiveInt = Field(default=4096, multiple_of=4096)
    precision: Literal["float32", "bfloat16"] = "float32"
    codec: str = "float16"
    codecs: dict[str, str] = {}  # by signal: {"logits": "top10", "stage3": "int8"}

    @model_validator(mode="after")
    def _mirrors_a_url(self) -> Self:
        if "://" in self.root:
            return self
        for name in ("mirror", "mirror_bytes"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: records in a folder are read in place, not mirrored; leave it out, "
                    "or set root to a URL such as s3://bucket/prefix"
                )
        return self


@final
class Workers(_Frozen):
    """Who trains a student: this process (count 0), or Ray Train workers."""

    count: int = Field(default=1, ge=0)
    cpus: PositiveFloat = 1.0  # of each worker
    gpus: float = Field(default=0.0, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    sync_batchnorm: bool = False

    @model_validator(mode="after")
    def _sync_needs_gpus(self) -> Self:
        if self.sync_batchnorm and not self.gpus:
            raise ValueError(
                "sync_batchnorm: runs on GPUs alone; set gpus: 1, or sync_batchnorm: false"
            )
        return self


@final
class Output(_Frozen):
    """Where run folders lie."""

    # Default: runs, here or in $TUTELAGE_STORAGE.
    root: Path = Field(default_factory=runs_folder)


@final
class Experiment(_Frozen):
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
