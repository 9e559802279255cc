"""How processes that train tell the driver what happens: they post, it takes, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, final

from orchestrator.students import Event, FailureEvent

POLL_S = 0.25


@contextmanager
def events_of(on_event: Callable[[Event], None]) -> Generator[Any]:
    """A board for other processes to ``post`` events on; this one is told of each, in a thread."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver: on a node that is lost, it would take the events along, and the whole job.
    here = ray.get_runtime_context().get_node_id()
    board: Any = (
        ray.remote(Board)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        .remote()
    )
    relay = _Relay(board, on_event)
    relay.start()
    try:
        yield board
    finally:
        relay.finish()
        ray.kill(board)
    if relay.error is not None:
        raise relay.error


@final
class Board:
    """An actor's logic: where workers post events and the driver takes them."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._failed: list[str] = []

    def post(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, FailureEvent):
            self._failed.append(event.job)

    def failed(self) -> list[str]:
        """The runs that cannot go on."""
        return self._failed

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events


@final
class _Relay(threading.Thread):
    """Brings events from the board to the driver while ``fit`` blocks its main thread.

    An event that cannot be handled holds up no other: students may wait for what those set off.
    """

    def __init__(self, board: Any, on_event: Callable[[Event], None]) -> None:
        super().__init__(name="events", daemon=True)
        self._board, self._on_event = board, on_event
        self._done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        import ray

        try:
            while True:
                last = self._done.wait(POLL_S)
                # However long it takes: events that were taken are nowhere else.
                for event in ray.get(self._board.take.remote()):
                    self._tell(event)
                if last:
                    return
        except Exception as error:
            self._keep(error)

    def _tell(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception as error:
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        """The first error is raised again by the driver, once fit has ended."""
        self.error = self.error or error

    def finish(self) -> None:
        """Bring what is left, and end."""
        self._done.set()
        self.join(timeout=30)
