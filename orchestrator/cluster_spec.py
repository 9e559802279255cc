"""A cluster on paper: nodes, storage, and figures that cannot be measured here, from YAML.

Imports neither torch nor ray. Units stand in the fields' names: Gbit/s are 10⁹ bits a second, GB
are 10⁹ bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from distill.loading import ConfigError
from orchestrator.codecs import make_codec

NotNegative = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@final
class Nodes(_Frozen):
    """Nodes that are alike."""

    count: PositiveInt
    cpus: PositiveFloat  # of a node, as all that follows
    gpus: NotNegative = 0.0
    network_gbit_s: PositiveFloat
    disk_gb: PositiveFloat  # for mirrors of records
    disk_gb_s: PositiveFloat
    price_per_hour: NotNegative = 0.0
    # How fast an actor or a worker is there, over one where the figures come from.
    speed: PositiveFloat = 1.0


@final
class Storage(_Frozen):
    """The place of record: a file system that all nodes mount, or a URL that they mirror."""

    kind: Literal["shared", "mirrored"] = "shared"
    read_gb_s: PositiveFloat  # for all nodes together
    write_gb_s: PositiveFloat
    capacity_gb: PositiveFloat | None = None  # default: what is needed
    part_s: NotNegative = 0.0  # what writing a part takes whatever its size


@final
class Figures(_Frozen):
    """Speeds that are given rather than measured: images/s of one actor, of one worker."""

    teachers: dict[str, PositiveFloat] = {}
    students: dict[str, PositiveFloat] = {}  # by method
    step_s: NotNegative = 0.0  # of a student's step, whatever the batch
    start_s: NotNegative = 60.0  # until processes stand
    epoch_s: NotNegative = 0.0  # of an epoch, besides its steps


@final
class Signal(_Frozen):
    """One signal of one teacher, as it is kept."""

    shape: tuple[PositiveInt, ...]
    codec: str = "float16"

    @model_validator(mode="after")
    def _kept(self) -> Self:
        make_codec(self.codec, self.shape)
        return self

    @property
    def row_bytes(self) -> int:
        return make_codec(self.codec, self.shape).row_bytes


@final
class TeacherWork(_Frozen):
    """A teacher of a job that is not on this machine."""

    name: str
    signals: dict[str, Signal]
    actors: PositiveInt | None = None  # default: all teachers share the cluster, to end together
    cpus: NotNegative = 1.0  # of an actor
    gpus: NotNegative = 1.0

    @property
    def row_bytes(self) -> int:
        return sum(signal.row_bytes for signal in self.signals.values())


@final
class Job(_Frozen):
    """A job whose data and weights are not on this machine."""

    samples: PositiveInt
    image_bytes: PositiveInt  # of one image on a node's disk
    epochs: PositiveInt
    passes: PositiveInt
    batch_size: PositiveInt  # of all workers together
    part_size: PositiveInt = Field(default=4096, multiple_of=4096)
    teachers: tuple[TeacherWork, ...] = Field(min_length=1)
    method: str
    seeds: PositiveInt = 1
    parameters: PositiveInt  # of the student
    # default: as many as the cluster holds, with ``smallest_share`` images each of a batch
    workers: PositiveInt | None = None
    smallest_share: PositiveInt = 32
    worker_cpus: PositiveFloat = 1.0
    worker_gpus: NotNegative = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.passes > self.epochs:
            raise ValueError(f"passes: {self.passes} for {self.epochs} epochs; set it lower")
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError(f"teachers: {names} repeats a name; give each its own")
        if self.workers is not None and self.workers > self.batch_size:
            raise ValueError(f"workers: {self.workers} cannot share a batch of {self.batch_size}")
        return self


@final
class ClusterSpec(_Frozen):
    """What ``plan --cluster`` reads. ``job`` stands for an experiment where there is none."""

    nodes: Nodes
    storage: Storage
    figures: Figures = Figures()
    job: Job | None = None

    @model_validator(mode="after")
    def _figures_of_job(self) -> Self:
        """Nothing of a job that is elsewhere can be measured here."""
        if self.job is None:
            return self
        for teacher in self.job.teachers:
            if teacher.name not in self.figures.teachers:
                raise ValueError(f"figures.teachers: no images/s of '{teacher.name}'; give them")
        if self.job.method not in self.figures.students:
            raise ValueError(f"figures.students: no images/s of '{self.job.method}'; give them")
        return self

    def of(self, count: int) -> ClusterSpec:
        """The same cluster with another number of nodes."""
        return self.model_copy(update={"nodes": self.nodes.model_copy(update={"count": count})})


def load_spec(file: Path) -> ClusterSpec:
    """Read a cluster's description. Raises ConfigError naming field, value and fix."""
    try:
        raw: Any = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"--cluster: no file '{file}'; correct the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"--cluster: '{file}' is not plain YAML: {text}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(f"--cluster: '{file}' holds no fields; it needs nodes and storage")
    try:
        return ClusterSpec.model_validate(raw)
    except ValidationError as error:
        lines = [_line(file, dict(one)) for one in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _line(file: Path, error: Mapping[str, Any]) -> str:
    field = ".".join(map(str, error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    plain = isinstance(value, str | int | float)
    known = f"; known: {', '.join(_fields(error['loc'][:-1]))}"
    match error["type"]:
        case "missing":
            text = "is missing; give it"
        case "extra_forbidden":
            text = f"is not known{known}"
        case _:
            text = message.removeprefix("Input ") + (f" (it is {value!r})" if plain else "")
    return f"{file}: {field}: {text}" if field else f"{file}: {text}"


def _fields(place: tuple[str | int, ...]) -> list[str]:
    """The fields of the model that a place in the file holds."""
    model: type[BaseModel] = ClusterSpec
    inner: Mapping[str, type[BaseModel]] = {
        "nodes": Nodes,
        "storage": Storage,
        "figures": Figures,
        "job": Job,
        "teachers": TeacherWork,
        "signals": Signal,
    }
    for key in place:
        model = inner.get(str(key), model)
    return list(model.model_fields)
