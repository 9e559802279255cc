"""The hard training views that MMKD's weights are learnt on, with what teachers said of them.

Legend: N entries, B samples of a batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from distill.signals import SignalSpec, TeacherSignals

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, UInt8

    from distill.signals import Batch


@final
@dataclass(frozen=True, slots=True)
class HardViews:
    """Some training views: images as rendered, labels, and every teacher's recorded signals."""

    images: UInt8[Tensor, "N c h w"]
    labels: Int[Tensor, " N"]
    signals: TeacherSignals


@final
class HardBuffer:
    """At most ``size`` views: whole batches first, later whatever the student gets wrong.

    It lies on the CPU, in the dtypes of the source of signals, so its memory is ``size`` times a
    sample's. Teachers are never asked again.
    Source: Zhang, Chen, Wang 2023, MMKD (arXiv 2306.06634), section 3.3.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._columns: dict[str, Tensor] = {}

    @property
    def is_full(self) -> bool:
        return self.count == self.size

    def add(
        self,
        batch: Batch,
        signals: TeacherSignals,
        missed: Bool[Tensor, " B"],
        *,
        generator: torch.Generator,
    ) -> None:
        """Append the whole batch while there is room; later, each missed sample replaces another.

        The slots of one batch are distinct: no sample pushes out its neighbour.
        """
        columns = _columns(batch, signals)
        if not self._columns:
            self._columns = {
                name: value.new_empty((self.size, *value.shape[1:]))
                for name, value in columns.items()
            }
        room = self.size - self.count
        if room:
            rows = torch.arange(min(room, len(batch)))
            slots = self.count + rows
            self.count += len(rows)
        else:
            rows = missed.cpu().nonzero().squeeze(1)[: self.size]
            slots = torch.randperm(self.size, generator=generator)[: len(rows)]
        for name, value in columns.items():
            self._columns[name][slots] = value[rows]

    def draw(self, num: int, *, generator: torch.Generator) -> HardViews:
        """``num`` entries, uniformly and none twice. Raises ValueError for more than there are."""
        if num > self.count:
            raise ValueError(f"{num} views to draw, and the buffer holds {self.count}")
        chosen = torch.randperm(self.count, generator=generator)[:num]
        drawn = {name: column[chosen] for name, column in self._columns.items()}
        images, labels = drawn.pop("images"), drawn.pop("labels")
        values: dict[str, dict[SignalSpec, Tensor]] = {}
        for name, value in drawn.items():
            spec, _, teacher = name.partition(" ")
            values.setdefault(teacher, {})[SignalSpec.parse(spec)] = value
        return HardViews(images, labels, TeacherSignals(values))

    def state_dict(self) -> dict[str, Any]:
        """The entries that are there; nothing of the room that is left."""
        return {
            "count": self.count,
            "columns": {name: column[: self.count] for name, column in self._columns.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]
        self._columns = {}
        for name, column in state["columns"].items():
            self._columns[name] = column.new_empty((self.size, *column.shape[1:]), device="cpu")
            self._columns[name][: self.count] = column


def _columns(batch: Batch, signals: TeacherSignals) -> dict[str, Tensor]:
    """A batch by column; a signal's is called SPEC TEACHER, since no spec has a space."""
    named = {
        f"{spec} {teacher}": value.cpu()
        for teacher, values in signals.values.items()
        for spec, value in values.items()
    }
    return {"images": batch.images, "labels": batch.labels, **named}
