"""Elastic students: Ray Train is told of room that it does not see taken, and people of resizes.

Ray Train's elastic policy takes as many workers as the nodes have room for, as if nothing but
trainings ran there. So what teachers' actors take is claimed in the register that it asks (Ray's
AutoscalingCoordinator), which looks at the nodes every 20 s by itself, and here as soon as one
joins or is lost.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

from distill.workers_config import Workers
from orchestrator.room import num_seated
from orchestrator.seats import Hold, Seats, Share
from orchestrator.students import EpochEvent, Event, Held, ResizeEvent, StartEvent, StudentError

START_TIMEOUT_S = 10  # of a group whose place has gone: then Ray Train counts again
POLL_S = 1.0
_RENEW_S = 20.0
_EXPIRE_S = 120.0
_ASK_S = 60.0
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_SLIVER = 0.001  # of a node's own resource, as Ray's smallest part is 0.0001

Nodes = Mapping[str, Mapping[str, Any]]  # by id, as Ray describes them


Tell = Callable[[Event], None]


def train_elastically(
    train: Callable[[Tell], None], config: Workers, held: Held, on_event: Tell
) -> None:
    """Train beside what is ``held``, for as long as the cluster lets some epoch end.

    On a large cluster nodes come and go: no number of losses is too many. Raises StudentError.
    """
    with _watched(config, held, on_event) as told:
        keep_training(train, told)


def keep_training(train: Callable[[Tell], None], on_event: Tell) -> None:
    """``train``, and again after an error as long as some epoch is done between two of them."""
    num_epochs = 0

    def count(event: Event) -> None:
        nonlocal num_epochs
        num_epochs += isinstance(event, EpochEvent)
        on_event(event)

    while True:
        before = num_epochs
        try:
            return train(count)
        except StudentError:
            if num_epochs == before:
                raise


@contextmanager
def _watched(config: Workers, held: Held, on_event: Tell) -> Generator[Tell]:
    """Whom to tell of events while elastic students train: ``on_event`` hears of resizes, too."""
    before = os.environ.get(_START_TIMEOUT)
    os.environ.setdefault(_START_TIMEOUT, str(START_TIMEOUT_S))
    teller = Teller(config, on_event)
    watch = _Watch(config, teller, held)
    watch.start()
    try:
        yield teller.on_event
    finally:
        watch.finish()
        if before is None:
            del os.environ[_START_TIMEOUT]
    if watch.error is not None:
        raise watch.error


@final
class Teller:
    """Passes events on, and says of each change of workers what it came of."""

    def __init__(self, config: Workers, on_event: Tell) -> None:
        self._config, self._on_event = config, on_event
        self._lock = threading.Lock()
        self._size: int | None = None  # workers at the last start; 0: it waits for room
        self._job, self._epoch = "", 0
        self._more: list[str] = []  # what made room since, and what took it
        self._less: list[str] = []

    def on_event(self, event: Event) -> None:
        with self._lock:
            match event:
                case StartEvent(job, _, epoch, size):
                    self._job, self._epoch = job, epoch
                    self._resized(size)
                case EpochEvent(_, epoch, _):
                    self._epoch = epoch
                case _:
                    pass
            self._on_event(event)

    def on_change(self, *, more: Sequence[str], less: Sequence[str], num_possible: int) -> None:
        """What happened on the cluster, and how many workers have room since."""
        with self._lock:
            self._more += more
            self._less += less
            if self._size and num_possible < self._config.least:
                self._resized(0)

    def _resized(self, size: int) -> None:
        before, self._size = self._size, size
        if size == before:
            return
        if before is None:
            reason = f"of {self._config.least} to {self._config.most}"
        else:
            causes = self._more if size > before else self._less
            reason = ", ".join(dict.fromkeys(causes)) or "the room on the cluster changed"
        self._more, self._less = [], []
        self._on_event(ResizeEvent(self._job, self._epoch, before, size, reason))


@final
class _Watch(threading.Thread):
    """Follows the cluster's nodes and what is held on them, and keeps Ray's register up to date."""

    def __init__(self, config: Workers, teller: Teller, held: Held) -> None:
        super().__init__(name="elastic", daemon=True)
        self._config, self._teller, self._held = config, teller, held
        self._done = threading.Event()
        self._nodes, holds = _alive(), held()
        self._taken = _sum(holds)
        self._register = Register()
        self._register.claim(bundles(self._nodes, holds))  # before Ray Train first counts
        self.error: Exception | None = None

    def run(self) -> None:
        from ray.exceptions import GetTimeoutError

        try:
            while not self._done.wait(POLL_S):
                with suppress(GetTimeoutError):  # the next look finds the same, and asks again
                    self._look()
        except Exception as error:  # raised again by the driver, once fit has ended
            self.error = error
        finally:
            self._register.cancel()

    def finish(self) -> None:
        self._done.set()
        self.join(timeout=_ASK_S)

    def _look(self) -> None:
        """Claim what is held now, and tell of what changed since the last look."""
        nodes, holds = _alive(), self._held()
        self._register.claim(bundles(nodes, holds))
        if nodes.keys() != self._nodes.keys():
            self._register.look_anew()
        before, self._nodes = self._nodes, nodes
        taken, self._taken = self._taken, _sum(holds)
        more = [f"{_name(nodes[node])} joined" for node in nodes.keys() - before.keys()]
        less = [f"{_name(before[node])} was lost" for node in before.keys() - nodes.keys()]
        if freed := _told(taken - self._taken):
            more.append(f"teachers left {freed}")
        if added := _told(self._taken - taken):
            less.append(f"teachers took {added}")
        if more or less:
            config = self._config
            seats = seats_beside(nodes, holds)
            share = Share(config.cpus, config.gpus)
            possible = num_seated(share, seats, most=config.most)
            self._teller.on_change(more=more, less=less, num_possible=possible)


@final
class Register:
    """Our entry in Ray's AutoscalingCoordinator, which keeps room apart for whoever asks."""

    def __init__(self) -> None:
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        self._actor: Any = get_or_create_autoscaling_coordinator()
        self._name = f"tutelage-{uuid.uuid4().hex}"
        self._last: list[dict[str, float]] | None = None
        self._renewed_s = 0.0

    def claim(self, wanted: list[dict[str, float]]) -> None:
        """Have ``wanted`` kept apart; returns once Ray Train would count without it."""
        import ray
        from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import (
            ResourceRequestPriority,
        )

        now = time.monotonic()
        if wanted == self._last and now - self._renewed_s < _RENEW_S:
            return
        claimed = self._actor.request_resources.remote(
            requester_id=self._name,
            resources=wanted,
            expire_after_s=_EXPIRE_S,
            # As Ray Train's own: among equals, who came first is served first.
            priority=ResourceRequestPriority.HIGH,
        )
        ray.get(claimed, timeout=_ASK_S)
        self._last, self._renewed_s = wanted, now

    def look_anew(self) -> None:
        """Make the register look at the nodes now."""
        import ray

        looked = self._actor.get_reserved_resources.remote(self._name, recompute=True)
        ray.get(looked, timeout=_ASK_S)

    def cancel(self) -> None:
        self._actor.cancel_request.remote(self._name)


def bundles(nodes: Nodes, holds: Sequence[Hold]) -> list[dict[str, float]]:
    """What is held, as requests that fit the nodes where it is held and no others.

    One a node, rounded as Ray rounds: what floats leave of a node must still hold whole workers.
    """
    sums: dict[str | None, Share] = {}
    for node, share in holds:
        place = node if node in nodes else None
        sums[place] = sums.get(place, Share(0, 0)) + share
    found: list[dict[str, float]] = []
    for node, share in sums.items():
        request = {"CPU": round(share.cpus, 4), "GPU": round(share.gpus, 4)}
        if node is not None:
            own = next(r for r in nodes[node]["Resources"] if _is_own(r))
            request[own] = _SLIVER
        found.append({name: amount for name, amount in request.items() if amount})
    return found


def seats_beside(nodes: Nodes, holds: Sequence[Hold]) -> Seats:
    """What the nodes have left beside what is held."""
    seats = Seats.of(nodes.values())
    for node, share in holds:
        if node in seats.left:
            seats.take_at(node, share)
        else:
            seats.take(share)
    return seats


def _is_own(resource: str) -> bool:
    """Whether a resource is one that a node has of its own: ``node:10.0.0.2``."""
    return resource.startswith("node:") and not resource.startswith("node:__")


def _alive() -> Nodes:
    import ray

    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']}"


def _sum(holds: Sequence[Hold]) -> Share:
    return sum((share for _, share in holds), Share(0, 0))


def _told(share: Share) -> str:
    """``1.5 CPUs and 1 GPUs``; what is below Ray's smallest part is none."""
    parts = ((share.cpus, "CPUs"), (share.gpus, "GPUs"))
    return " and ".join(f"{amount:g} {kind}" for amount, kind in parts if amount > _SLIVER)
