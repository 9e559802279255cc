"""What workers post reaches the driver, event by event, whatever goes wrong with some of them."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray

from orchestrator import boards
from orchestrator.boards import events_of
from orchestrator.students import Event, FailureEvent

pytestmark = pytest.mark.ray
SENT = ["a", "b", "c"]


def test_an_event_that_cannot_be_handled_holds_up_no_other() -> None:
    told: list[str] = []

    def on_event(event: Event) -> None:
        told.append(event.job)
        if event.job != "c":
            raise OSError(f"no room for {event.job}")

    with pytest.raises(OSError, match="no room for a"), events_of(on_event) as board:
        ray.get([board.post.remote(FailureEvent(name, "")) for name in SENT], timeout=120)
    assert told == SENT


def test_events_that_come_late_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(boards.Board):  # as on a machine that stands still for minutes
        def take(self) -> list[Event]:
            taken = super().take()
            time.sleep(1.0)
            return taken

    told: list[str] = []
    get = ray.get

    def in_haste(refs: Any, *, timeout: float | None = None) -> Any:
        return get(refs, timeout=timeout and timeout / 50)

    monkeypatch.setattr(boards, "Board", Slow)
    with events_of(lambda event: told.append(event.job)) as board:
        get([board.post.remote(FailureEvent(name, "")) for name in SENT], timeout=120)
        monkeypatch.setattr(ray, "get", in_haste)
    assert told == SENT
