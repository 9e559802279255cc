"""Elastic students: as many workers as there is room for, and the same student."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from queue import Queue

import pandas as pd
import pytest
import ray
from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import (
    ResourceRequestPriority,
)
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)
from ray.util import placement_group, remove_placement_group
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.config import Experiment
from distill.datasets import load_data
from distill.workers_config import Workers
from orchestrator import students
from orchestrator.boards import Board
from orchestrator.elastic import Register, Tell, Teller, bundles, keep_training, seats_beside
from orchestrator.fleet import Placement, fits
from orchestrator.jobs import student_jobs
from orchestrator.preparation import file_accuracy
from orchestrator.runs import RunFolder
from orchestrator.seats import Share
from orchestrator.students import (
    EpochEvent,
    Event,
    FailureEvent,
    ResizeEvent,
    StartEvent,
    StudentError,
    StudentJob,
    train_students,
)
from orchestrator.teachers import input_plan
from tests.helpers import filed_weights, prepare, record_here, two_teachers
from tests.nodes import grown_cluster

WAIT_S = 240
TWO_TO_FOUR = Workers(min=2, max=4)


def node(name: str, cpus: float, address: str) -> dict[str, object]:
    """A node as Ray describes it."""
    resources = {"CPU": cpus, f"node:{address}": 1.0, "node:__internal_head__": 1.0}
    return {"NodeID": name, "Alive": True, "NodeManagerAddress": address, "Resources": resources}


NODES = {"a": node("a", 2.0, "10.0.0.1"), "b": node("b", 2.0, "10.0.0.2")}


def test_what_is_held_is_claimed_where_it_is_held() -> None:
    """In one request a node, rounded: ten tenths are a CPU; what has no node fits anywhere."""
    holds = [*[("a", Share(0.1, 0.0))] * 10, ("b", Share(0.5, 0.25)), ("gone", Share(1, 0))]
    assert bundles(NODES, holds) == [
        {"CPU": 1.0, "node:10.0.0.1": 0.001},
        {"CPU": 0.5, "GPU": 0.25, "node:10.0.0.2": 0.001},
        {"CPU": 1.0},
    ]
    left = seats_beside(NODES, [("a", Share(1.5, 0)), ("gone", Share(1, 0))]).left
    assert left == {"a": Share(0.5, 0), "b": Share(1.0, 0)}


def test_a_change_of_workers_is_told_with_its_cause() -> None:
    told: list[Event] = []
    teller = Teller(TWO_TO_FOUR, told.append)
    teller.on_event(StartEvent("kd", 9, 0, 4))
    teller.on_event(EpochEvent("kd", 1, {}))
    teller.on_change(more=[], less=["node b was lost"], num_possible=2)
    teller.on_event(StartEvent("kd", 9, 1, 2))
    teller.on_event(StartEvent("ce", 9, 0, 2))  # the next run, in the same group
    teller.on_change(more=["node c joined"], less=["teachers took 1 CPUs"], num_possible=3)
    teller.on_event(StartEvent("ce", 9, 5, 3))
    assert [event for event in told if isinstance(event, ResizeEvent)] == [
        ResizeEvent("kd", 0, None, 4, "of 2 to 4"),
        ResizeEvent("kd", 1, 4, 2, "node b was lost"),
        ResizeEvent("ce", 5, 2, 3, "node c joined"),
    ]


def test_a_run_that_waits_for_room_says_so_once() -> None:
    told: list[Event] = []
    teller = Teller(TWO_TO_FOUR, told.append)
    teller.on_change(more=["node c joined"], less=[], num_possible=1)  # nothing was begun
    teller.on_event(StartEvent("kd", 9, 3, 2))
    for lost in ("node b was lost", "node a was lost"):
        teller.on_change(more=[], less=[lost], num_possible=1)
    teller.on_event(StartEvent("kd", 9, 3, 2))
    assert [event for event in told if isinstance(event, ResizeEvent)] == [
        ResizeEvent("kd", 3, None, 2, "of 2 to 4"),
        ResizeEvent("kd", 3, 2, 0, "node b was lost"),
        ResizeEvent("kd", 3, 0, 2, "the room on the cluster changed"),
    ]


def test_losses_end_a_run_only_if_no_epoch_ends_between_them() -> None:
    epochs = iter([1, 2, None])

    def train(tell: Tell) -> None:
        if epoch := next(epochs):
            tell(EpochEvent("kd", epoch, {}))
        raise StudentError(f"after {epoch}")

    told: list[Event] = []
    with pytest.raises(StudentError, match="after None"):
        keep_training(train, told.append)
    assert [event.epoch for event in told if isinstance(event, EpochEvent)] == [1, 2]


def test_a_group_that_starts_anew_knows_which_runs_failed() -> None:
    board = Board()
    for event in (EpochEvent("ce", 1, {}), FailureEvent("ce", "NaN"), EpochEvent("kd", 1, {})):
        board.post(event)
    assert len(board.take()) == 3
    assert board.failed() == ["ce"]


# --- with Ray


@pytest.mark.ray
def test_what_teachers_hold_is_no_room_in_rays_register() -> None:
    """Asked as Ray Train asks: two workers of a CPU each, on the node of two CPUs."""
    nodes = {n["NodeID"]: n for n in ray.nodes() if n["Alive"]}
    (name,) = nodes
    coordinator = get_or_create_autoscaling_coordinator()
    register = Register()
    try:
        for held, room in ((1.5, 0.0), (1.0, 1.0), (0.0, 2.0)):
            register.claim(bundles(nodes, [(name, Share(held, 0))]))
            asked = {"resources": [{"CPU": 1.0}] * 2, "expire_after_s": 60}
            ray.get(
                coordinator.request_resources.remote(
                    requester_id="workers", priority=ResourceRequestPriority.HIGH, **asked
                )
            )
            kept = ray.get(coordinator.get_reserved_resources.remote("workers", recompute=True))
            assert kept.get(name, {}).get("CPU", 0.0) == room
    finally:
        register.cancel()
        ray.get(coordinator.cancel_request.remote("workers"))


@pytest.mark.ray
@pytest.mark.slow
def test_students_grow_and_shrink_with_the_cluster_and_end_as_one_worker_would(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch with one worker, with two and with one: each pass is recorded when they are there.

    The node that joins has GPUs to its name, as any node may for Ray: teachers share them.
    """
    monkeypatch.setattr(students, "RESIZE_S", 1.0)
    bare = {"student.options": {"norm": "none"}}  # one worker's answer depends on no other's
    elastic = {"workers": {"min": 1, "max": 2, "cpus": 2}}
    experiment = two_teachers(fashion, tmp_path, bare | elastic)
    job, servings = job_of(experiment), [t.serving for t in prepare(experiment)]
    events: Queue[Event] = Queue()

    def record(index: int) -> None:
        for serving in servings:
            record_here(serving, input_plan(experiment), [index])

    with ExitStack() as stack:
        cluster = stack.enter_context(grown_cluster())
        for serving in servings:
            stack.enter_context(serving.recording.lock)  # so that students wait
        thread = threading.Thread(target=train, args=(job, events), daemon=True)
        thread.start()
        assert started(events, "of 1 to 2") == StartEvent(job.title, 3, 0, 1)
        record(0)
        ended(events, 1)
        joined = cluster.add_node(num_cpus=2, num_gpus=2)
        gpus_are_shared_as_seats_say()
        assert started(events, "joined") == StartEvent(job.title, 3, 1, 2)
        record(1)
        ended(events, 2)
        cluster.remove_node(joined, allow_graceful=False)
        assert started(events, "was lost") == StartEvent(job.title, 3, 2, 1)
        record(2)
        thread.join(WAIT_S)
    (alone,) = [job_of(two_teachers(fashion, tmp_path, bare | {"workers.count": 0}))]
    train(alone, Queue())
    error = filed_weights(job.folder) - filed_weights(alone.folder)
    assert error.norm() / filed_weights(alone.folder).norm() < 1e-4
    rows, reference = (RunFolder(one.folder).metrics() for one in (job, alone))
    assert rows["epoch"].tolist() == [0, 1, 2]
    assert rows["workers"].tolist() == [1, 2, 1]
    pd.testing.assert_series_equal(rows["loss/total"], reference["loss/total"], rtol=1e-4)
    drawn = EventAccumulator(str(job.folder)).Reload().Scalars("workers")
    assert [(event.step, event.value) for event in drawn] == [(11, 1.0), (22, 2.0), (33, 1.0)]


def train(job: StudentJob, events: Queue[Event]) -> None:
    train_students([job], job.experiment.workers, storage=job.folder.parent, on_event=events.put)


def job_of(experiment: Experiment) -> StudentJob:
    teachers, data = prepare(experiment), load_data(experiment.data)
    for teacher in teachers:
        file_accuracy(teacher, data, 0.5)
    (job,) = student_jobs(experiment, teachers, data)
    return job


def gpus_are_shared_as_seats_say() -> None:
    """Of two GPUs, three quarters of each are taken: then a quarter has room, and not a half."""
    most, half, quarter = (Placement(n, 0, gpus) for n, gpus in ((2, 0.75), (1, 0.5), (1, 0.25)))
    assert fits([most, quarter], workers=())
    assert not fits([most, half], workers=())
    taken = placement_group([{"GPU": 0.75}] * 2)
    assert taken.wait(30)
    narrow = placement_group([{"GPU": 0.25}])
    assert narrow.wait(30)
    wide = placement_group([{"GPU": 0.5}])  # last: others would queue behind it
    assert not wide.wait(1)
    for group in (taken, wide, narrow):
        remove_placement_group(group)


def started(events: Queue[Event], cause: str) -> StartEvent:
    """The next start of a group, told with its cause."""
    before: Event | None = None
    while not isinstance(event := events.get(timeout=WAIT_S), StartEvent):
        before = event
    assert isinstance(before, ResizeEvent)
    assert cause in before.reason
    return event


def ended(events: Queue[Event], epoch: int) -> None:
    """Wait for the end of an epoch."""
    while not isinstance(event := events.get(timeout=WAIT_S), EpochEvent) or event.epoch < epoch:
        pass
