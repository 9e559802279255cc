"""How long a workload takes, what it costs, and what of it does not fit.

Imports neither torch nor ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from orchestrator.cluster_spec import ClusterSpec
from orchestrator.estimates import Estimate, epoch, estimate, recording
from orchestrator.fitting import misfits, room_for_trials
from orchestrator.workload import Site, Workload

FINAL_SEEDS = 3  # of a sweep's best settings, as ``tune`` trains them


@final
@dataclass(frozen=True, slots=True)
class Forecast:
    """A workload, where it runs, and how long that takes."""

    load: Workload
    site: Site
    estimate: Estimate
    misfits: tuple[str, ...] = ()  # what does not fit, and what would
    room: int = 1  # trials of a sweep that fit at a time

    @property
    def cost(self) -> float:
        """What all nodes cost meanwhile."""
        return self.estimate.total_s / 3600 * self.site.price_per_hour

    @property
    def network_bytes(self) -> float:
        """What records take through the nodes' network, written and read; 0 on one machine."""
        load, site = self.load, self.site
        if math.isinf(site.network_bytes_s):
            return 0.0
        if not site.is_mirrored:
            read = sum(len(run.epochs) * run.pass_bytes for run in load.readers)
            return load.record_bytes + read
        copied = 0.0
        passes = set[tuple[int, int]]()
        for run in load.readers:
            kept = site.keeps(load.num_passes * run.pass_bytes)
            opened = [(epoch % load.num_passes, run.row_bytes) for epoch in run.epochs]
            times = len(set(opened) - passes) if kept else len(opened)
            passes.update(opened)
            copied += times * run.num_nodes * run.pass_bytes
        return load.record_bytes + copied

    def sweep_s(self, num_trials: int) -> float:
        """Seconds of a sweep of trials like the last run; 0 where no run is left.

        Everything is recorded first. As many trials as fit run at a time, and share the place of
        record; the best settings are trained with fresh seeds afterwards.
        """
        load, site = self.load, self.site
        if not load.runs:
            return 0.0
        run = load.runs[-1]
        at_once = min(self.room, num_trials)
        busy = max(1.0, at_once * run.units / site.capacity)
        shared = epoch(run, site, image_bytes=load.image_bytes, num_runs=at_once)
        alone = epoch(run, site, image_bytes=load.image_bytes)
        epochs = run.epochs.stop  # a trial begins at the first
        waves = math.ceil(num_trials / at_once)
        # What the first wave has copied to the nodes serves all that follow, if it is kept.
        kept = site.keeps(load.num_passes * run.pass_bytes)
        copies = load.num_passes if kept else epochs * (waves + FINAL_SEEDS)
        trials = busy * waves * (epochs * shared.seconds + run.end_s)
        finals = FINAL_SEEDS * (epochs * alone.seconds + run.end_s)
        record = recording(load.teachers, site, image_bytes=load.image_bytes)
        start = load.start_s + load.workers_s + sum(load.before_s.values())
        return start + record.seconds + copies * shared.fetch_s + trials + finals


def forecast(load: Workload, site: Site, spec: ClusterSpec) -> Forecast:
    """How long a workload takes on a cluster, ``site``, and whether it fits."""
    nodes = spec.nodes
    room = room_for_trials(
        load.workers, cpus=nodes.count * nodes.cpus, gpus=nodes.count * nodes.gpus
    )
    return Forecast(load, site, estimate(load, site), misfits(load, spec), room)


def site_of(spec: ClusterSpec, *, on_gpus: bool) -> Site:
    """A cluster; ``on_gpus``: whether GPUs are what the job keeps busy, else cores."""
    nodes, storage = spec.nodes, spec.storage
    return Site(
        # A cluster without what is asked for is a misfit, but must not divide by zero.
        capacity=nodes.count * (nodes.gpus if on_gpus else nodes.cpus) or 1.0,
        num_nodes=nodes.count,
        network_bytes_s=nodes.network_gbit_s * 1e9 / 8,
        disk_bytes_s=nodes.disk_gb_s * 1e9,
        disk_bytes=nodes.disk_gb * 1e9,
        write_bytes_s=storage.write_gb_s * 1e9,
        read_bytes_s=storage.read_gb_s * 1e9,
        part_s=storage.part_s,
        is_mirrored=storage.kind == "mirrored",
        price_per_hour=nodes.count * nodes.price_per_hour,
    )
