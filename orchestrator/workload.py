"""The terms of a plan: what has still to be done, in numbers, and what it is done on.

Units: images, bytes, seconds; ``units`` are the cores, or GPUs, that something keeps busy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherLoad:
    """What one teacher has still to record."""

    name: str
    images_per_s: float  # of one actor that shares nothing: rendered, answered, encoded
    actors: int
    units: float  # of one actor
    images: int  # over all passes
    parts: int
    passes: tuple[int, ...]  # of which anything is missing, first needed first
    row_bytes: int  # that are written for an image

    @property
    def num_bytes(self) -> int:
        return self.images * self.row_bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunLoad:
    """What one student has still to train, with the same workers from begin to end."""

    title: str
    epochs: range  # those that are left
    images: int  # of an epoch
    images_per_s: float  # of all workers together, gradients not yet exchanged
    exchange_s: float = 0.0  # of an epoch: averaging gradients over nodes
    epoch_s: float = 0.0  # of an epoch, besides: validation, a checkpoint
    end_s: float = 0.0  # the test
    row_bytes: int = 0  # that are read for an image; 0: no records are read
    units: float = 1.0  # of all workers
    num_nodes: int = 1

    @property
    def pass_bytes(self) -> int:
        """What an epoch reads of its pass."""
        return self.images * self.row_bytes


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Processes that are alike, and what each of them takes of a node."""

    name: str
    count: int
    cpus: float
    gpus: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that a job does, in the order in which it does it."""

    teachers: tuple[TeacherLoad, ...]
    runs: tuple[RunLoad, ...]
    num_passes: int  # epoch e reads pass e mod num_passes
    side_by_side: bool  # whether recording runs beside training, or before it
    is_served_apart: bool = False  # whether served teachers have no room beside students
    actors: tuple[Group, ...] = ()  # of each teacher
    workers: Group = Group("students", 0, 0.0, 0.0)
    store_bytes: int = 0  # of all records that runs read, those on file included
    ahead: int | None = None  # epochs that recording may be ahead of training; None: no bound
    image_bytes: int = 0  # of an image as it lies on a node's disk; 0: it is in memory
    start_s: float = 0.0  # until teachers' actors stand
    workers_s: float = 0.0  # until students' workers stand, from when they may begin
    before_s: Mapping[str, float] = field(default_factory=dict)  # named, one after the other

    @property
    def readers(self) -> tuple[RunLoad, ...]:
        return tuple(run for run in self.runs if run.row_bytes)

    @property
    def record_bytes(self) -> int:
        """What is still to be written."""
        return sum(teacher.num_bytes for teacher in self.teachers)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a job runs on: this machine, or a cluster of equal nodes. Infinite: no bound known."""

    capacity: float  # cores or GPUs of all nodes, whichever the job keeps busy
    num_nodes: int = 1
    network_bytes_s: float = math.inf  # of a node, each way
    disk_bytes_s: float = math.inf  # of a node
    disk_bytes: float = math.inf  # of a node
    write_bytes_s: float = math.inf  # of the place of record, for all nodes together
    read_bytes_s: float = math.inf
    part_s: float = 0.0  # what writing a part takes whatever its size
    is_mirrored: bool = False  # whether every node copies whole passes from the place of record
    price_per_hour: float = 0.0  # of all nodes

    def keeps(self, num_bytes: float) -> bool:
        """Whether a node's disk holds a mirror of so many bytes."""
        return num_bytes <= self.disk_bytes
