"""Saying that students or teachers wait for nodes: else nothing moves, and nobody knows why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

from orchestrator.room import num_seated
from orchestrator.seats import Seats, Share

POLL_S = 5.0


@contextmanager
def told_of_waiting(
    workers: Sequence[Share], tell: Callable[[str], None], *, poll_s: float = POLL_S
) -> Generator[None]:
    """Tell when the nodes that are alive do not hold ``workers``, and when they do again.

    A node that was lost may come back, and one that was asked for may be hours away.
    """
    if not workers:
        yield
        return
    ended = threading.Event()
    watch = threading.Thread(
        target=_watch, args=(workers, tell, poll_s, ended), name="waiting", daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(
    workers: Sequence[Share], tell: Callable[[str], None], poll_s: float, ended: threading.Event
) -> None:
    was_waiting = False
    while not ended.is_set():
        held = num_seated(workers[0], Seats.of_cluster(), most=len(workers))
        is_waiting = held < len(workers)
        if is_waiting and not was_waiting:
            tell(
                f"students: {len(workers)} workers of {workers[0].cpus:g} CPUs and "
                f"{workers[0].gpus:g} GPUs wait for nodes; those that are alive hold {held}"
            )
        elif was_waiting and not is_waiting:
            tell("students: there are nodes for all workers again")
        was_waiting = is_waiting
        ended.wait(poll_s)


def have_no_place(actors: Iterable[Any]) -> bool:
    """Whether every one of these actors waits for a node with room, at its start or once more.

    One that a node starts, which may take long, has its place.
    """
    from ray._private import state  # Ray's State API would need a dashboard

    known = cast("Callable[[str], Any]", state.actors)
    # Of a node it is told as soon as that one is asked; of a process, when it has room for it.
    return not any(known(actor._actor_id.hex())["Address"]["IPAddress"] for actor in actors)
