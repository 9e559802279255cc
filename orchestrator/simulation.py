"""A discrete-event simulation of recorders and students: what the formulas are held against.

Every actor takes part after part from its teacher's queue, keeps cores or GPUs busy for it, and
sends it through its node's network to the place of record; a student waits for whole passes, copies
or streams them, and reads a slice of an epoch while it trains on the one before. Networks and
storage share their bandwidth evenly among all that is under way.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import simpy

from orchestrator.workload import RunLoad, Site, TeacherLoad, Workload

SLICES = 16  # of an epoch: what is read ahead of a student's steps
_Steps = Generator[Any, Any, None]


@final
@dataclass(slots=True)
class Simulated:
    """What came of it, in seconds from the begin of recording."""

    recording_s: float = 0.0
    end_s: float = 0.0
    runs: dict[str, float] = field(default_factory=dict)  # from begin to end
    waiting_s: float = 0.0  # for passes
    passes_ahead: int = 0  # the most that were whole before an epoch began to read them


def simulate(load: Workload, site: Site, *, jitter: float = 0.0, seed: int = 0) -> Simulated:
    """Play a workload through; starts and what comes before recording are left out.

    With ``jitter`` every part's and slice's time is multiplied by a lognormal of mean 1 and this
    standard deviation of its logarithm.
    """
    return _World(load, site, jitter=jitter, seed=seed).play()


@final
class _Shared:
    """What all that is under way shares evenly: bandwidth, or cores (processor sharing).

    ``_level`` is what work of weight 1 has received that began with the simulation: it grows by
    capacity over the weight under way, at most by ``fastest``; work ends when it has grown by the
    work's amount.
    """

    def __init__(
        self, world: simpy.Environment, capacity: float, *, fastest: float = math.inf
    ) -> None:
        self._world, self._capacity, self._fastest = world, capacity, fastest
        self._level, self._then, self._weight = 0.0, 0.0, 0.0
        self._under_way: list[tuple[float, int, float, simpy.Event]] = []
        self._begun = 0  # a timer that was set before something began or ended is out of date
        self._changes = 0

    def work(self, amount: float, weight: float = 1.0) -> simpy.Event:
        """An event that happens when ``amount``, bytes or seconds, is done."""
        done = self._world.event()
        if not amount or math.isinf(self._speed(weight)):
            return done.succeed()
        self._catch_up()
        self._begun += 1
        self._weight += weight
        heapq.heappush(self._under_way, (self._level + amount, self._begun, weight, done))
        self._watch()
        return done

    def _speed(self, weight: float) -> float:
        return min(self._fastest, self._capacity / weight if weight else math.inf)

    def _catch_up(self) -> None:
        if self._under_way:
            self._level += (self._world.now - self._then) * self._speed(self._weight)
        self._then = self._world.now

    def _watch(self) -> None:
        """Look again when the next work ends, if nothing begins or ends before."""
        self._changes += 1
        if not self._under_way:
            return
        left = max(0.0, self._under_way[0][0] - self._level)
        timer = self._world.timeout(left / self._speed(self._weight), self._changes)
        assert timer.callbacks is not None
        timer.callbacks.append(self._end)

    def _end(self, timer: simpy.Event) -> None:
        if timer.value != self._changes:
            return
        self._level, self._then = self._under_way[0][0], self._world.now
        _, _, weight, done = heapq.heappop(self._under_way)
        # Of nothing under way the weight is exactly 0, whatever rounding has left of it.
        self._weight = self._weight - weight if self._under_way else 0.0
        done.succeed()
        self._watch()


@final
class _World:
    """The processes of one simulation and what they share."""

    def __init__(self, load: Workload, site: Site, *, jitter: float, seed: int) -> None:
        self.load, self.site, self.jitter = load, site, jitter
        self.draw = np.random.default_rng(seed)
        self.world = simpy.Environment()
        self.cores = _Shared(self.world, site.capacity, fastest=1.0)
        self.writes = _Shared(self.world, site.write_bytes_s)
        self.reads = _Shared(self.world, site.read_bytes_s)
        nodes = range(site.num_nodes)
        self.uplinks = [_Shared(self.world, site.network_bytes_s) for _ in nodes]
        self.downlinks = [_Shared(self.world, site.network_bytes_s) for _ in nodes]
        self.disks = [_Shared(self.world, site.disk_bytes_s) for _ in nodes]
        self.order = sorted({p for t in load.teachers for p in t.passes}, key=self._rank)
        self.missing = {p: sum(p in t.passes for t in load.teachers) for p in self.order}
        self.whole = {p: self.world.event() for p in self.order}
        self.allowed = {p: self.world.event() for p in self.order}
        self.mirrored = set[tuple[int, int]]()  # passes on the nodes, by bytes of a row
        self.result = Simulated()

    def _rank(self, pass_index: int) -> int:
        """A pass's place in the order of need, which is every teacher's."""
        return max(t.passes.index(pass_index) for t in self.load.teachers if pass_index in t.passes)

    def play(self) -> Simulated:
        self._allow(None if self._ahead is None else self._ahead + 1)
        recorders = [self.world.process(step) for step in self._recorders()]
        recorded = self.world.all_of(recorders)
        trained = self.world.process(self._students(None if self.load.side_by_side else recorded))
        self.world.run(trained & recorded)
        self.result.end_s = self.world.now
        return self.result

    @property
    def _ahead(self) -> int | None:
        return self.load.ahead if self.load.side_by_side else None

    def _allow(self, count: int | None) -> None:
        for pass_index in self.order[:count]:
            if not self.allowed[pass_index].triggered:
                self.allowed[pass_index].succeed()

    def _jittered(self, seconds: float) -> float:
        if not self.jitter:
            return seconds
        return seconds * self.draw.lognormal(-(self.jitter**2) / 2, self.jitter)

    def _recorders(self) -> Generator[_Steps]:
        actors = 0
        for teacher in self.load.teachers:
            parts = _parts(teacher)
            left = {p: sum(part == p for part in parts) for p in teacher.passes}
            queue = deque(parts)
            for _ in range(min(teacher.actors, len(parts))):
                yield self._actor(teacher, queue, left, node=actors % self.site.num_nodes)
                actors += 1

    def _actor(
        self, teacher: TeacherLoad, queue: deque[int], left: dict[int, int], *, node: int
    ) -> _Steps:
        images = teacher.images / teacher.parts
        while queue:
            pass_index = queue.popleft()
            yield self.allowed[pass_index]
            yield self.disks[node].work(images * self.load.image_bytes)
            yield self._work(images / teacher.images_per_s, teacher.units)
            num_bytes = images * teacher.row_bytes
            yield self.uplinks[node].work(num_bytes) & self.writes.work(num_bytes)
            yield self.world.timeout(self.site.part_s)
            left[pass_index] -= 1
            if not left[pass_index]:
                self.missing[pass_index] -= 1
                if not self.missing[pass_index]:
                    self.whole[pass_index].succeed()
            self.result.recording_s = self.world.now

    def _work(self, seconds: float, units: float) -> simpy.Event:
        """Keep cores or GPUs busy; what others keep busy at the same time makes it longer."""
        return self.cores.work(self._jittered(seconds), units)

    def _students(self, after: simpy.Event | None) -> _Steps:
        if after is not None:
            yield after
        units = max((run.units for run in self.load.runs), default=0.0)
        yield self._work(self.load.workers_s, units)
        for run in self.load.runs:
            began = self.world.now
            for index in run.epochs:
                pass_index = index % self.load.num_passes
                if run.row_bytes:
                    yield from self._open(run, pass_index)
                yield from self._epoch(run)
            yield self.world.timeout(run.end_s)
            self.result.runs[run.title] = self.world.now - began

    def _open(self, run: RunLoad, pass_index: int) -> _Steps:
        """Wait until a pass is whole; copy it to every node where the site does so."""
        began = self.world.now
        if pass_index in self.whole:
            if self._ahead is not None:
                self._allow(self.order.index(pass_index) + self._ahead + 1)
            ready = sum(self.whole[p].triggered for p in self.order[self.order.index(pass_index) :])
            self.result.passes_ahead = max(self.result.passes_ahead, ready)
            yield self.whole[pass_index]
        self.result.waiting_s += self.world.now - began
        key = pass_index, run.row_bytes
        if not self.site.is_mirrored or key in self.mirrored:
            return
        size = run.pass_bytes
        copies = [node.work(size) for node in self.downlinks[: run.num_nodes]]
        copies += [self.reads.work(size) for _ in range(run.num_nodes)]
        yield self.world.all_of([*copies, self.world.timeout(size / self.site.disk_bytes_s)])
        if self.site.keeps(self.load.num_passes * size):
            self.mirrored.add(key)

    def _epoch(self, run: RunLoad) -> _Steps:
        steps_s = run.images / run.images_per_s + run.exchange_s
        reading = self._read(run)
        for index in range(SLICES):
            yield reading
            if index + 1 < SLICES:
                reading = self._read(run)
            yield self._work(steps_s / SLICES, run.units)
        yield self._work(run.epoch_s, run.units)

    def _read(self, run: RunLoad) -> simpy.Event:
        """What a slice of an epoch needs: images from the nodes' disks, signals from the store."""
        images = run.images / SLICES
        per_node = images * self.load.image_bytes / run.num_nodes
        events = [self.world.timeout(per_node / self.site.disk_bytes_s)]
        if run.row_bytes and not self.site.is_mirrored:
            num_bytes = images * run.row_bytes
            events += [self.reads.work(num_bytes)]
            events += [self.downlinks[0].work(num_bytes / run.num_nodes)]
        return self.world.all_of(events)


def _parts(teacher: TeacherLoad) -> list[int]:
    """The pass of each part to record, in the order of need, shared out evenly."""
    passes = len(teacher.passes)
    return [teacher.passes[i * passes // teacher.parts] for i in range(teacher.parts)]
