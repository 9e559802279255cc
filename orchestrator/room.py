"""Whether an experiment's processes have room, here or on a cluster's nodes; else what would fit.

Free of torch; a cluster's nodes are Ray's to name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.seats import Seats, Share, seat

JOINING_S = 60.0  # nodes of `ray up` join one after the other, the first after 20 s
# Set to 1 in a cluster whose autoscaler starts nodes for what is asked for: Ray's own answer to
# what nodes there could be differs between its two autoscalers.
AUTOSCALING = "TUTELAGE_AUTOSCALING"
_POLL_S = 0.5


def grows() -> bool:
    """Whether the cluster is said to start nodes for what is asked for."""
    return os.environ.get(AUTOSCALING) == "1"


def misfits_here(experiment: Experiment, *, num_cpus: int, with_gpu: bool) -> list[str]:
    """What this machine alone cannot hold: known before Ray starts."""
    return [*_cpus(experiment, num_cpus), *([] if with_gpu else _gpus(experiment))]


def shares_of_workers(experiment: Experiment) -> list[Share]:
    """What each of a student's workers takes: of those that it cannot do without."""
    workers = experiment.workers
    return [Share(workers.cpus, workers.gpus)] * workers.least


def check_room(
    experiment: Experiment,
    note: Callable[[str], None],
    *,
    students: bool = True,
    joining_s: float = JOINING_S,
) -> None:
    """Raise ConfigError where the session's nodes hold no actor of a teacher, or too few workers.

    Ray would wait for ever for the one, and for long for the others. A cluster that was joined has
    ``joining_s`` for nodes that are still on their way; one that is said to start nodes when they
    are asked for is asked. With ``students=False`` none is trained.
    """
    if grows():
        for problem in misfits(experiment, Seats.of_cluster(), students=students):
            note(f"{problem}; {AUTOSCALING} is set: waiting for the autoscaler to do so")
        return
    until = time.monotonic() + (joining_s if os.environ.get("RAY_ADDRESS") else 0.0)
    is_told = False
    while problems := misfits(experiment, Seats.of_cluster(), students=students):
        left = until - time.monotonic()
        if left <= 0:
            raise ConfigError("\n".join(problems))
        if not is_told:
            note(f"the cluster has no room yet; waiting {joining_s:.0f} s for nodes that join")
            is_told = True
        time.sleep(min(left, _POLL_S))


def misfits(experiment: Experiment, seats: Seats, *, students: bool = True) -> list[str]:
    """A line for each kind of process that empty nodes do not hold, with what they would."""
    actors = [(f"teachers[{i}]", "an actor", t) for i, t in enumerate(experiment.teachers)]
    parts = [(field, what, Share(t.cpus, t.gpus)) for field, what, t in actors]
    workers = shares_of_workers(experiment) if students else []
    found = [line for part in parts for line in _one(*part, seats)]
    alone = [line for share in workers[:1] for line in _one("workers", "a worker", share, seats)]
    return [*found, *(alone or _together(experiment, workers, seats))]


def _one(field: str, what: str, share: Share, seats: Seats) -> list[str]:
    """One process must lie on one node."""
    if any(seats.holds(node, share) for node in seats.left):
        return []
    # Nodes that have the GPUs, if there are such: more CPUs elsewhere would not help.
    nodes = [left for left in seats.left.values() if left.gpus >= share.gpus]
    if nodes:
        kind, asked, most = "CPUs", share.cpus, max(left.cpus for left in nodes)
        beside = f" beside its {share.gpus:g} GPUs" if share.gpus else ""
    else:
        kind, asked, beside = "GPUs", share.gpus, ""
        most = max((left.gpus for left in seats.left.values()), default=0.0)
    fix = f"set it to {most:g} or less, or " if most else ""
    return [
        f"{field}.{kind.lower()}: no node of the cluster holds {what} of {asked:g} {kind}: the "
        f"largest has {most:g}{beside}; {fix}start such a node first"
    ]


def _together(experiment: Experiment, workers: Sequence[Share], seats: Seats) -> list[str]:
    """Those that a student cannot do without must stand at one time."""
    held = num_seated(workers[0], seats, most=len(workers)) if workers else 0
    if held == len(workers):
        return []
    field = "workers.min" if experiment.workers.is_elastic else "workers.count"
    share = workers[0]
    takes = f"{share.cpus:g} CPUs and {share.gpus:g} GPUs"
    return [
        f"{field}: {len(workers)} workers of {takes}, and the cluster's nodes hold {held} at a "
        f"time; set {field} to {held} or less, or start more nodes first"
    ]


def num_seated(share: Share, seats: Seats, *, most: int) -> int:
    """How many processes that are alike the nodes hold, up to ``most``."""
    seats = seats.copy()
    return next((n for n in range(most) if not seat([share], (), seats)), most)


def _cpus(experiment: Experiment, num_cpus: int) -> list[str]:
    problems: list[str] = []
    workers = experiment.workers
    parts = [(f"teachers[{i}].cpus", "an actor", t.cpus) for i, t in enumerate(experiment.teachers)]
    if workers.most:
        parts.append(("workers.cpus", "a worker", workers.cpus))
    for field, what, cpus in parts:
        if cpus > num_cpus:
            problems.append(
                f"{field}: {what} of {cpus:g} CPUs does not fit on this machine, which has "
                f"{num_cpus}; set it to {num_cpus} or less"
            )
    if workers.cpus <= num_cpus < workers.least * workers.cpus:
        field = "workers.min" if workers.is_elastic else "workers.count"
        problems.append(
            f"{field}: {workers.least} workers of {workers.cpus:g} CPUs need "
            f"{workers.least * workers.cpus:g}, this machine has {num_cpus}; set {field} "
            f"to {int(num_cpus / workers.cpus)} or less, or RAY_ADDRESS to a cluster's address"
        )
    return problems


def _gpus(experiment: Experiment) -> list[str]:
    """Ray would wait for ever for a GPU that is not there."""
    parts = [(f"teachers[{i}].gpus", t.gpus) for i, t in enumerate(experiment.teachers)]
    return [
        f"{field}: {gpus:g} asked for, and this machine has no GPU; set it to 0, or RAY_ADDRESS to "
        "a cluster's address"
        for field, gpus in (*parts, ("workers.gpus", experiment.workers.gpus))
        if gpus
    ]
