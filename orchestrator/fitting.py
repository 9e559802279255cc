"""What of a job a cluster does not hold, and what would hold it. Imports neither torch nor ray."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.cluster_spec import ClusterSpec, Nodes
from orchestrator.workload import Group, Workload

_ROUNDING = 1e-9


def fit_together(groups: Sequence[Group], *, cpus: float, gpus: float) -> bool:
    """Whether all processes fit at one time, as ``orchestrator.fleet.fits`` counts."""
    return (
        sum(group.count * group.cpus for group in groups) <= cpus
        and sum(group.count * group.gpus for group in groups) <= gpus
    )


def a_node_holds(nodes: Nodes, group: Group) -> int:
    """How many processes of a group fit one node."""
    rooms = [
        has / takes for has, takes in ((nodes.cpus, group.cpus), (nodes.gpus, group.gpus)) if takes
    ]
    return math.floor(min(rooms, default=1.0) + _ROUNDING)


def nodes_of(nodes: Nodes, group: Group) -> int:
    """On how many nodes a group's processes stand, packed; at least 1."""
    return min(nodes.count, math.ceil(group.count / max(1, a_node_holds(nodes, group)))) or 1


def room_for_trials(workers: Group, *, cpus: float, gpus: float) -> int:
    """How many students fit at a time, as ``tune`` counts them; at least 1."""
    count = max(1, workers.count)
    needs = ((cpus, workers.cpus), (gpus, workers.gpus))
    rooms = [has / (count * takes) for has, takes in needs if takes]
    return max(1, math.floor(min(rooms, default=1.0) + _ROUNDING))


def misfits(load: Workload, spec: ClusterSpec) -> tuple[str, ...]:
    """One line for each thing that does not fit, with what would; empty where all does."""
    lines = [line for group in load.actors for line in _process(group, spec.nodes, "an actor")]
    lines += _process(load.workers, spec.nodes, "a worker") or _workers(load.workers, spec.nodes)
    return (*lines, *_storage(load, spec), *_mirror(load, spec), *misfits_beside(load))


def _process(group: Group, nodes: Nodes, what: str) -> list[str]:
    """One process must fit one node."""
    return [
        f"{group.name}: {what} of {takes:g} {kind} does not fit a node of {has:g}; nodes with "
        f"{takes:g} would hold it, or set {kind.lower()} to {has:g} or less"
        for kind, takes, has in (("CPUs", group.cpus, nodes.cpus), ("GPUs", group.gpus, nodes.gpus))
        if takes > has
    ]


def _workers(workers: Group, nodes: Nodes) -> list[str]:
    """All workers of a student must stand at one time."""
    held = nodes.count * a_node_holds(nodes, workers)
    if workers.count <= held:
        return []
    needed = math.ceil(workers.count / max(1, a_node_holds(nodes, workers)))
    return [
        f"students: {workers.count} workers of {workers.cpus:g} CPUs and {workers.gpus:g} GPUs, "
        f"and the cluster holds {held}; {held} workers would fit, or {needed} nodes"
    ]


def _storage(load: Workload, spec: ClusterSpec) -> list[str]:
    """All records must lie at the place of record."""
    if spec.storage.capacity_gb is None or load.ahead is not None:
        return []
    capacity = spec.storage.capacity_gb * 1e9
    if load.store_bytes <= capacity:
        return []
    fit = math.floor(capacity / (load.store_bytes / load.num_passes))
    other = f"passes: {fit} fit" if fit else "not one pass fits"
    return [
        f"storage.capacity_gb: {spec.storage.capacity_gb:g} GB for {load.num_passes} passes of "
        f"records, {load.store_bytes / 1e9:,.0f} GB; {other}; a codec such as top10 is smaller, "
        "and retain: window keeps a few passes alone"
    ]


def _mirror(load: Workload, spec: ClusterSpec) -> list[str]:
    """A node's mirror must hold a pass of all that one run reads."""
    largest = max((run.pass_bytes for run in load.runs), default=0)
    disk = spec.nodes.disk_gb * 1e9
    if spec.storage.kind != "mirrored" or largest <= disk:
        return []
    return [
        f"nodes.disk_gb: {spec.nodes.disk_gb:g} GB do not hold the mirror of one pass, "
        f"{largest / 1e9:,.0f} GB; disks of {math.ceil(largest / 1e9):,} GB would, or "
        "storage.kind: shared, or a codec such as top10"
    ]


def misfits_beside(load: Workload) -> list[str]:
    """A window's passes are deleted, and served teachers answer, while students train: both must
    stand at one time.
    """
    if load.is_served_apart:
        field, what, fix = "signals.source", "'served'", "source: cached"
    elif load.ahead is not None and load.store_bytes and not load.side_by_side:
        field, what, fix = "signals.retain", "'window'", "retain: all"
    else:
        return []
    cpus = sum(g.count * g.cpus for g in (*load.actors, load.workers))
    gpus = sum(g.count * g.gpus for g in (*load.actors, load.workers))
    return [
        f"{field}: {what} needs teachers and students side by side; a cluster of {cpus:g} CPUs and "
        f"{gpus:g} GPUs would hold them, or set {fix}"
    ]
