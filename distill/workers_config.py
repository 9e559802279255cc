"""How many workers train a student, and what each of them takes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, final

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distill.frozen import Frozen

_EXACT = 0.25  # of which any number are a float


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError(
            f"{gpus:g} is more than a GPU and not a whole number; processes share one GPU or have "
            f"whole ones: set it to {math.floor(gpus)} or {math.ceil(gpus)}"
        )
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]  # of a process


@final
class Workers(Frozen):
    """Who trains a student: this process (count 0), or Ray Train workers.

    ``min`` and ``max`` in the place of ``count``: as many as the cluster has room for.
    """

    count: int | None = Field(default=1, ge=0)
    min: PositiveInt | None = None
    max: PositiveInt | None = None
    cpus: PositiveFloat = 1.0  # of each worker
    gpus: Gpus = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    sync_batchnorm: bool = False

    @property
    def least(self) -> int:
        """With fewer a run does not go on."""
        return self.count or 0 if self.min is None else self.min

    @property
    def most(self) -> int:
        return self.count or 0 if self.max is None else self.max

    @property
    def is_elastic(self) -> bool:
        return self.min is not None

    @model_validator(mode="before")
    @classmethod
    def _count_or_bounds(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("min", value.get("max")) is None:
            return value
        return {"count": None, **value}

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if (self.min is None) != (self.max is None):
            given, other = ("min", "max") if self.max is None else ("max", "min")
            raise ValueError(f"{given}: goes with {other}; give both, or count alone")
        if self.min is None or self.max is None:
            if self.count is None:
                raise ValueError("count: null goes with min and max; give both, or a count")
            return self
        if self.count is not None:
            raise ValueError(
                f"count: {self.count} beside min: {self.min} and max: {self.max}; set count: null, "
                "or min: null and max: null"
            )
        if self.max < self.min:
            raise ValueError(f"max: {self.max} is less than min: {self.min}; set it higher")
        for name, takes in (("cpus", self.cpus), ("gpus", self.gpus)):
            # Ray Train divides a node's room by it, in floats: of 0.9 CPUs 0.3 are there twice.
            if takes % _EXACT:
                raise ValueError(
                    f"{name}: {takes:g} with min and max; set it to a multiple of "
                    f"{_EXACT}, or give a count"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was not given: a run's digest is made of it."""
        fields: dict[str, Any] = handler(self)
        absent = ("count",) if self.is_elastic else ("min", "max")
        return {name: value for name, value in fields.items() if name not in absent}

    @model_validator(mode="after")
    def _sync_needs_gpus(self) -> Self:
        if self.sync_batchnorm and not self.gpus:
            raise ValueError(
                "sync_batchnorm: runs on GPUs alone; set gpus: 1, or sync_batchnorm: false"
            )
        return self
