"""A job whose data and weights are elsewhere, by given figures alone.

Imports neither torch nor ray.
"""

from __future__ import annotations

import heapq
import math

from orchestrator.cluster_spec import ClusterSpec, Job, TeacherWork
from orchestrator.estimates import exchange_s
from orchestrator.fitting import a_node_holds, fit_together, nodes_of
from orchestrator.forecast import Forecast, forecast, site_of
from orchestrator.workload import Group, RunLoad, Site, TeacherLoad, Workload


def forecast_job(spec: ClusterSpec, job: Job) -> Forecast:
    """How long a job takes on a cluster: where not said otherwise, each phase takes all of it."""
    on_gpus = bool(job.worker_gpus or any(teacher.gpus for teacher in job.teachers))
    site = site_of(spec, on_gpus=on_gpus)
    return forecast(_workload(spec, job, site, on_gpus=on_gpus), site, spec)


def share_out(
    seconds: dict[str, float], takes: dict[str, float], *, capacity: float
) -> dict[str, int]:
    """How many actors each teacher gets so that the last one ends as early as can be.

    ``seconds`` are one actor's, ``takes`` are GPUs or cores of an actor. Each gets one; then the
    one that would end last gets another, as long as that fits.
    """
    counts = dict.fromkeys(seconds, 1)
    free = capacity - sum(takes.values())
    last = [(-alone, name) for name, alone in seconds.items()]
    heapq.heapify(last)
    while last and takes[last[0][1]] <= free:
        name = heapq.heappop(last)[1]
        counts[name] += 1
        free -= takes[name]
        heapq.heappush(last, (-seconds[name] / counts[name], name))
    return counts


def _workload(spec: ClusterSpec, job: Job, site: Site, *, on_gpus: bool) -> Workload:
    actors = _actors(spec, job, site, on_gpus=on_gpus)
    nodes = spec.nodes
    one = Group("students", 1, job.worker_cpus, job.worker_gpus)
    held = max(1, nodes.count * a_node_holds(nodes, one))
    count = job.workers or min(held, job.batch_size // job.smallest_share or 1)
    workers = Group("students", count, job.worker_cpus, job.worker_gpus)
    return Workload(
        teachers=tuple(
            _teacher(spec, job, teacher, group, on_gpus=on_gpus)
            for teacher, group in zip(job.teachers, actors, strict=True)
        ),
        runs=tuple(
            _run(spec, job, site, workers, title=f"{job.method} seed {seed}", on_gpus=on_gpus)
            for seed in range(job.seeds)
        ),
        num_passes=job.passes,
        side_by_side=fit_together(
            (*actors, workers), cpus=nodes.count * nodes.cpus, gpus=nodes.count * nodes.gpus
        ),
        actors=actors,
        workers=workers,
        store_bytes=job.samples * job.passes * sum(t.row_bytes for t in job.teachers),
        image_bytes=job.image_bytes,
        start_s=spec.figures.start_s,
    )


def _actors(spec: ClusterSpec, job: Job, site: Site, *, on_gpus: bool) -> tuple[Group, ...]:
    """Each teacher's actors: as many as it asks for, or its share of the cluster."""
    takes = {t.name: (t.gpus if on_gpus else t.cpus) or 1.0 for t in job.teachers}
    free = site.capacity - sum(t.actors * takes[t.name] for t in job.teachers if t.actors)
    sharing = {t.name: 1 / spec.figures.teachers[t.name] for t in job.teachers if not t.actors}
    counts = share_out(sharing, {name: takes[name] for name in sharing}, capacity=free)
    return tuple(Group(t.name, t.actors or counts[t.name], t.cpus, t.gpus) for t in job.teachers)


def _teacher(
    spec: ClusterSpec, job: Job, teacher: TeacherWork, group: Group, *, on_gpus: bool
) -> TeacherLoad:
    return TeacherLoad(
        name=teacher.name,
        images_per_s=spec.figures.teachers[teacher.name] * spec.nodes.speed,
        actors=group.count,
        units=group.gpus if on_gpus else max(1.0, math.floor(group.cpus)),
        images=job.samples * job.passes,
        parts=math.ceil(job.samples / job.part_size) * job.passes,
        passes=tuple(range(job.passes)),
        row_bytes=teacher.row_bytes,
    )


def _run(
    spec: ClusterSpec, job: Job, site: Site, workers: Group, *, title: str, on_gpus: bool
) -> RunLoad:
    figures, num_nodes = spec.figures, nodes_of(spec.nodes, workers)
    share = job.batch_size / workers.count
    alone = figures.students[job.method] * spec.nodes.speed
    steps = job.samples // job.batch_size
    exchange = exchange_s(job.parameters, num_nodes=num_nodes, network_bytes_s=site.network_bytes_s)
    return RunLoad(
        title=title,
        epochs=range(job.epochs),
        images=steps * job.batch_size,
        images_per_s=job.batch_size / (figures.step_s + share / alone),
        exchange_s=steps * exchange,
        epoch_s=figures.epoch_s,
        row_bytes=sum(teacher.row_bytes for teacher in job.teachers),
        units=workers.count * (workers.gpus if on_gpus else max(1.0, math.floor(workers.cpus))),
        num_nodes=num_nodes,
    )
