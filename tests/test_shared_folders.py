"""Folders that nodes do not share are found out, and what is waited for is said."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from orchestrator import shared_folders
from orchestrator.room import num_seated
from orchestrator.seats import Seats, Share
from orchestrator.shared_folders import visible
from orchestrator.waiting import told_of_waiting

ONE = Share(1, 0)


def test_a_file_that_comes_late_is_seen_and_another_one_is_not(tmp_path: Path) -> None:
    late, never = tmp_path / "late", tmp_path / "never"
    threading.Timer(0.3, late.touch).start()
    assert visible([late, never], 0.0) == [False, False]
    assert visible([late, never], 2.0) == [True, False]


@pytest.mark.ray
def test_a_node_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(shared_folders, "NODE_S", 0.2)  # it looks for the file for longer
    node = ray.get_runtime_context().get_node_id()
    with pytest.raises(TimeoutError, match=rf"node 10\.0\.0\.7 .* sees {tmp_path};"):
        shared_folders.asked({node: "10.0.0.7"}, [tmp_path / "never"])


@pytest.mark.ray
def test_a_node_that_cannot_look_is_an_error(tmp_path: Path) -> None:
    import ray

    node = ray.get_runtime_context().get_node_id()
    name_too_long = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="name too long"):
        shared_folders.asked({node: "10.0.0.7"}, [name_too_long])


@pytest.mark.ray
def test_a_node_that_is_lost_is_not_asked(tmp_path: Path) -> None:
    assert shared_folders.asked({"0" * 56: "10.0.0.7"}, [tmp_path]) == {}


def test_workers_are_counted_as_nodes_hold_them() -> None:
    assert num_seated(Share(2, 0), Seats({"a": Share(3, 0), "b": Share(4, 0)}), most=3) == 3
    assert num_seated(Share(2, 0), Seats({"a": Share(3, 0), "b": Share(3, 0)}), most=3) == 2


@pytest.mark.ray
def test_it_is_told_once_that_students_wait() -> None:
    told: list[str] = []
    with told_of_waiting([ONE] * 3, told.append, poll_s=0.01):  # of two CPUs
        end = time.monotonic() + 30
        while not told and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
    (said,) = told
    assert "3 workers of 1 CPUs and 0 GPUs wait for nodes; those that are alive hold 2" in said


@pytest.mark.ray
def test_nothing_is_told_where_all_have_places() -> None:
    told: list[str] = []
    with told_of_waiting([ONE] * 2, told.append, poll_s=0.01):
        time.sleep(0.1)
    assert told == []
