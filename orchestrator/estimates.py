"""How long a workload takes on a site: closed formulas, and a recurrence over epochs.

Recording is bound by the slowest of what it needs at the same time; so is an epoch. A student waits
for its pass and no other, so an epoch begins when the one before has ended and its pass is whole:
with P seconds a pass, E an epoch, N epochs of N passes, recording beside training ends at
max(P + N E, N P + E). ``orchestrator/simulation.py`` holds this against parts, queues and servers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from orchestrator.workload import RunLoad, Site, TeacherLoad, Workload

FORWARD = "teachers' forward passes"
WRITING = "writing records"
UPLINK = "nodes' network, writing"
IMAGES = "reading images from disk"
STEPS = "students' steps"
EXCHANGE = "exchanging gradients"
READING = "reading records"
DOWNLINK = "nodes' network, reading"
MIRRORING = "copying passes to every node"
START = "starting processes"
BYTES_OF_A_GRADIENT = 4


@final
@dataclass(frozen=True, slots=True)
class Recording:
    """How recording goes where nothing holds it back."""

    seconds: float
    pass_s: Mapping[int, float]  # what each pass adds, in the order in which they are recorded
    bounds: Mapping[str, float]  # seconds that each need alone would take


@final
@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a run."""

    seconds: float  # with its pass at hand
    fetch_s: float  # to have a pass copied to the nodes before its first epoch there
    bounds: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job takes, in seconds; ``runs`` are from a run's first step to its last."""

    start_s: float
    before_s: float
    recording_s: float
    training_s: float  # from the first run's begin to the last one's end, waiting included
    waiting_s: float  # of that, for passes not yet recorded
    total_s: float
    runs: Mapping[str, float]
    costs: Mapping[str, float]  # what each need takes alone, over the whole job

    @property
    def limit(self) -> str:
        """What the job would gain most from having more of."""
        return max(self.costs, key=self.costs.__getitem__)


def recording(teachers: Sequence[TeacherLoad], site: Site, *, image_bytes: int = 0) -> Recording:
    """All teachers at once, sharing the site's cores or GPUs evenly."""
    units = {t.name: min(t.actors, t.parts) * t.units for t in teachers}
    image_s = image_bytes / site.disk_bytes_s
    alone = {t.name: _alone_s(t, site, image_s=image_s) for t in teachers}
    ends = shared(alone, units, capacity=site.capacity)
    forward = {t.name: t.images / t.images_per_s / min(t.actors, t.parts) for t in teachers}
    num_bytes = sum(t.num_bytes for t in teachers)
    bounds = {
        FORWARD: max(shared(forward, units, capacity=site.capacity).values(), default=0.0),
        WRITING: num_bytes / site.write_bytes_s,
        UPLINK: num_bytes / (site.num_nodes * site.network_bytes_s),
        IMAGES: sum(t.images for t in teachers) * image_s / site.num_nodes,
    }
    seconds = max(*bounds.values(), *ends.values())
    slower = seconds / max(ends.values()) if seconds else 1.0
    whole: dict[int, float] = {}
    for teacher in teachers:
        for done, pass_index in enumerate(teacher.passes, 1):
            end = slower * ends[teacher.name] * done / len(teacher.passes)
            whole[pass_index] = max(end, whole.get(pass_index, 0.0))
    order = sorted(whole, key=whole.__getitem__)
    starts = (0.0, *(whole[index] for index in order))
    pass_s = {index: whole[index] - start for index, start in zip(order, starts, strict=False)}
    return Recording(seconds, pass_s, bounds)


def _alone_s(teacher: TeacherLoad, site: Site, *, image_s: float) -> float:
    """Seconds of a teacher that shares nothing: an actor reads, answers and writes in turn."""
    write_s = teacher.row_bytes / min(site.write_bytes_s, site.network_bytes_s)
    each_s = image_s + 1 / teacher.images_per_s + write_s
    part_s = each_s * teacher.images / teacher.parts + site.part_s
    return math.ceil(teacher.parts / teacher.actors) * part_s


def shared(
    alone: Mapping[str, float], units: Mapping[str, float], *, capacity: float
) -> dict[str, float]:
    """When each ends if all begin at once and share ``capacity`` evenly: processor sharing."""
    left = {name: seconds for name, seconds in alone.items() if seconds > 0}
    ends, now = dict.fromkeys(alone, 0.0), 0.0
    while left:
        wanted = sum(units[name] for name in left)
        speed = capacity / wanted if wanted > capacity else 1.0
        shortest = min(left.values())
        now += shortest / speed
        ends |= {name: now for name, seconds in left.items() if seconds <= shortest}
        left = {name: s - shortest for name, s in left.items() if s > shortest}
    return ends


def epoch(run: RunLoad, site: Site, *, image_bytes: int = 0, num_runs: int = 1) -> Epoch:
    """One epoch of a run that shares the place of record with ``num_runs`` - 1 others."""
    bounds = {
        STEPS: run.images / run.images_per_s + run.epoch_s,
        EXCHANGE: run.exchange_s,
        IMAGES: run.images * image_bytes / (run.num_nodes * site.disk_bytes_s),
    }
    fetch = 0.0
    if site.is_mirrored:
        fetch = max(
            run.pass_bytes / site.network_bytes_s,
            run.pass_bytes / site.disk_bytes_s,
            num_runs * run.num_nodes * run.pass_bytes / site.read_bytes_s,
        )
    else:
        bounds[READING] = num_runs * run.pass_bytes / site.read_bytes_s
        bounds[DOWNLINK] = run.pass_bytes / (run.num_nodes * site.network_bytes_s)
    # Gradients are averaged after the backward pass, so a step and its exchange add up.
    busy = bounds[STEPS] - run.epoch_s + bounds[EXCHANGE]
    others = (value for name, value in bounds.items() if name not in (STEPS, EXCHANGE))
    return Epoch(max(busy, *others) + run.epoch_s, fetch, bounds)


def exchange_s(parameters: int, *, num_nodes: int, network_bytes_s: float) -> float:
    """Seconds to average float32 gradients over nodes in a ring: 2 (n - 1) / n of their bytes.

    Of a ring's transfers, see Patarasuk and Yuan, J. Parallel Distrib. Comput. 69 (2009). What
    workers of one node exchange among themselves is left out.
    """
    share = 2 * (num_nodes - 1) / num_nodes
    return share * parameters * BYTES_OF_A_GRADIENT / network_bytes_s


def estimate(load: Workload, site: Site) -> Estimate:
    """Recording before training, or beside it, as ``load`` says."""
    record = recording(load.teachers, _beside(load, site), image_bytes=load.image_bytes)
    begin = 0.0 if load.side_by_side else record.seconds
    passes = _Passes(load, record)
    training = _Training()
    slow = max((_slowdown(load, run, site) for run in load.runs), default=1.0)
    training.clock = _advance(begin, load.workers_s, until=passes.end, slow=slow)
    costs = dict(record.bounds) | {START: load.start_s + load.workers_s}
    for run in load.runs:
        training.train(run, load, site, passes)
        for name, seconds in epoch(run, site, image_bytes=load.image_bytes).bounds.items():
            costs[name] = costs.get(name, 0.0) + seconds * len(run.epochs)
    costs[MIRRORING] = training.fetched_s
    before_s = sum(load.before_s.values())
    return Estimate(
        start_s=load.start_s,
        before_s=before_s,
        recording_s=passes.end,
        training_s=training.clock - begin,
        waiting_s=training.waited_s,
        total_s=load.start_s + before_s + max(training.clock, passes.end),
        runs=training.runs,
        costs=costs | dict(load.before_s),
    )


@final
class _Training:
    """Runs one after the other on the same nodes, which keep the passes that they have copied."""

    def __init__(self) -> None:
        self.clock = self.waited_s = self.fetched_s = 0.0
        self.runs: dict[str, float] = {}
        self._mirrored = set[tuple[int, int]]()  # passes, by the bytes that are read of them

    def train(self, run: RunLoad, load: Workload, site: Site, passes: _Passes) -> None:
        """The epochs that are left of a run, and its test."""
        began, slow = self.clock, _slowdown(load, run, site)
        one = epoch(run, site, image_bytes=load.image_bytes)
        for index in run.epochs:
            if run.row_bytes:
                self._open(index % load.num_passes, run, one, passes)
                if not site.keeps(load.num_passes * run.pass_bytes):
                    self._mirrored.clear()
            self.clock = _advance(self.clock, one.seconds, until=passes.end, slow=slow)
        self.clock += run.end_s
        self.runs[run.title] = self.clock - began

    def _open(self, pass_index: int, run: RunLoad, one: Epoch, passes: _Passes) -> None:
        ready = passes.ready(pass_index, now=self.clock)
        self.waited_s += max(0.0, ready - self.clock)
        self.clock = max(self.clock, ready)
        if (pass_index, run.row_bytes) not in self._mirrored:
            self.clock += one.fetch_s
            self.fetched_s += one.fetch_s
            self._mirrored.add((pass_index, run.row_bytes))


@final
class _Passes:
    """When passes are whole. Those of a window wait for the student to come near."""

    def __init__(self, load: Workload, record: Recording) -> None:
        self._pass_s = record.pass_s
        self._ahead = load.ahead if load.side_by_side else None
        self._order = list(record.pass_s)
        self._ready: dict[int, float] = {}
        self._allow(len(self._order) if self._ahead is None else self._ahead + 1, now=0.0)

    @property
    def end(self) -> float:
        """When the last pass is whole that may be recorded so far."""
        return max(self._ready.values(), default=0.0)

    def ready(self, pass_index: int, *, now: float) -> float:
        """When a pass is whole, asked at the begin of an epoch that reads it."""
        if self._ahead is not None and pass_index in self._pass_s:
            self._allow(self._order.index(pass_index) + self._ahead + 1, now=now)
        return self._ready.get(pass_index, 0.0)

    def _allow(self, count: int, *, now: float) -> None:
        for index in self._order[len(self._ready) : count]:
            begin = max(max(self._ready.values(), default=0.0), now)
            self._ready[index] = begin + self._pass_s[index]


def _beside(load: Workload, site: Site) -> Site:
    """What is left of the site for teachers while the largest student trains beside them."""
    if not load.side_by_side or not load.runs:
        return site
    wanted = sum(min(t.actors, t.parts) * t.units for t in load.teachers)
    students = max(run.units for run in load.runs)
    if not wanted or wanted + students <= site.capacity:
        return site
    return replace(site, capacity=site.capacity * wanted / (wanted + students))


def _slowdown(load: Workload, run: RunLoad, site: Site) -> float:
    """How much slower a run is while teachers record beside it."""
    if not load.side_by_side:
        return 1.0
    wanted = run.units + sum(min(t.actors, t.parts) * t.units for t in load.teachers)
    return max(1.0, wanted / site.capacity)


def _advance(clock: float, work: float, *, until: float, slow: float) -> float:
    """The clock after ``work`` seconds, done at 1/slow of the speed as long as it is < until."""
    overlap = max(0.0, until - clock)
    if work * slow <= overlap:
        return clock + work * slow
    return clock + overlap + work - overlap / slow
