"""How many workers: what a configuration says, what has room, and what is said of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from distill.config import Experiment
from distill.loading import ConfigError, load_experiment
from orchestrator.candidates import Space
from orchestrator.display import Display
from orchestrator.fleet import Placement, fits
from orchestrator.preflight import check
from orchestrator.progress import TrainingProgress
from orchestrator.room import check_room, misfits, num_seated, shares_of_workers
from orchestrator.seats import Seats, Share
from orchestrator.students import Event, ResizeEvent
from orchestrator.sweep_plan import Plan, check_plan


def demo(*settings: str) -> Experiment:
    return load_experiment("demo", settings)


def mistake(*settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(demo(*settings), num_cpus=8)
    return str(caught.value)


def nodes(*shares: Share) -> Seats:
    return Seats({f"n{i}": share for i, share in enumerate(shares)})


def test_a_number_of_workers_is_fixed_or_between_bounds() -> None:
    fixed, elastic = demo("workers.count=3").workers, demo("workers={min: 1, max: 4}").workers
    assert (fixed.least, fixed.most, fixed.is_elastic) == (3, 3, False)
    assert (elastic.least, elastic.most, elastic.is_elastic) == (1, 4, True)
    assert elastic.count is None


def test_what_is_filed_of_workers_is_what_was_given() -> None:
    """A run's digest is made of it: bounds that nobody gave must not change it."""
    for settings, given, absent in (
        (["workers.cpus=2"], {"count": 1, "cpus": 2.0}, {"min", "max"}),
        (["workers={min: 1, max: 4}"], {"min": 1, "max": 4}, {"count"}),
    ):
        experiment = demo(*settings)
        filed = experiment.as_dict()["workers"]
        assert given.items() <= filed.items()
        assert not absent & filed.keys()
        assert Experiment.model_validate(experiment.as_dict()) == experiment


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["workers.min=1"], "workers.min: goes with max; give both, or count alone"),
        (["workers.max=2"], "workers.max: goes with min; give both, or count alone"),
        (["workers={min: 3, max: 2}"], "workers.max: 2 is less than min: 3; set it higher"),
        (["workers={min: 0, max: 2}"], "workers.min: should be greater than 0 (it is 0)"),
        (
            ["workers={count: 2, min: 1, max: 3}"],
            "workers.count: 2 beside min: 1 and max: 3; set count: null, or min: null and max",
        ),
        (["workers.count=null"], "workers.count: null goes with min and max; give both"),
        (["workers={min: 1, max: 2, cpus: 0.3}"], "workers.cpus: 0.3 with min and max; set it to"),
        (["workers={min: 1, max: 2, gpus: 0.1}"], "workers.gpus: 0.1 with min and max; set it to"),
        (["workers.gpus=1.5"], "workers.gpus: 1.5 is more than a GPU and not a whole number"),
        (["teachers[1].gpus=2.5"], "teachers[1].gpus: 2.5 is more than a GPU and not a whole"),
        (["teachers[1].gpus=-1"], "teachers[1].gpus: should be greater than or equal to 0"),
        (
            ["workers={min: 1, max: 99}", "schedule.batch_size=64"],
            "workers.max: 99 workers cannot share a batch of 64; set workers.max lower, or",
        ),
        (
            ["workers={min: 9, max: 12}"],
            "workers.min: 9 workers of 1 CPUs need 9, this machine has 8; set workers.min to 8",
        ),
        (["workers={min: 1, max: 2}", "method=mmkd"], "'mmkd' has weights for one size of batch"),
    ],
)
def test_a_mistake_in_the_number_of_workers_names_what_mends_it(
    settings: list[str], says: str
) -> None:
    assert says in mistake(*settings)


def test_more_workers_than_this_machine_holds_are_no_mistake_if_fewer_will_do() -> None:
    check(demo("workers={min: 1, max: 12}"), num_cpus=8)
    check(demo("workers={min: 2, max: 2}", "method=mmkd"), num_cpus=8)


def test_a_sweep_has_trials_of_a_fixed_size(tmp_path: Path) -> None:
    space = Space("one", {"optimizer.lr": 0.1}, {})
    root = f"output.root={tmp_path}"
    with pytest.raises(ConfigError, match=r"workers.min: 1 to 2 workers, but .* workers={count"):
        check_plan(demo("workers={min: 1, max: 2}", root), space, Plan())
    check_plan(demo("workers={min: 1, max: 1}", root), space, Plan())


# --- room


def test_no_more_is_asked_of_a_cluster_than_an_elastic_run_begins_with() -> None:
    elastic = demo("workers={min: 2, max: 9}", "teachers=[]", "method=ce", "baselines=[]")
    assert shares_of_workers(elastic) == [Share(1, 0)] * 2
    assert misfits(elastic, nodes(Share(1, 0), Share(1, 0))) == []
    (line,) = misfits(elastic, nodes(Share(1, 0), Share(0, 0)))
    assert line.startswith("workers.min: 2 workers of 1 CPUs and 0 GPUs, and the cluster's nodes")
    assert "hold 1 at a time; set workers.min to 1 or less, or start more nodes first" in line


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "workers={count: 1, cpus: 4}",
            "workers.cpus: no node of the cluster holds a worker of 4 CPUs: the largest has 2; "
            "set it to 2 or less, or start such a node first",
        ),
        ("workers={count: 1, gpus: 2}", "workers.gpus: no node of the cluster holds a worker of 2"),
        (
            "workers={count: 1, gpus: 1, cpus: 2}",
            "2 CPUs: the largest has 1 beside its 1 GPUs;",
        ),
        ("workers={count: 4}", "workers.count: 4 workers of 1 CPUs and 0 GPUs, and the cluster's"),
        ("teachers[0].cpus=3", "teachers[0].cpus: no node of the cluster holds an actor of 3 CPU"),
        ("teachers[2].gpus=2", "teachers[2].gpus: no node of the cluster holds an actor of 2 GPU"),
    ],
)
def test_what_no_node_holds_is_told_with_what_would_fit(setting: str, says: str) -> None:
    (line,) = misfits(demo(setting), nodes(Share(2, 0), Share(1, 1)))
    assert says in line


def test_a_machine_that_lacks_room_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once here; a cluster that was joined has a while, for its nodes come one by one."""
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes(Share(1, 0)))
    notes: list[str] = []
    lacking = demo("workers={count: 2}")
    with pytest.raises(ConfigError, match=r"workers.count: 2 workers"):
        check_room(lacking, notes.append)
    assert notes == []
    check_room(lacking, notes.append, students=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"workers.count: 2 workers"):
        check_room(lacking, notes.append, joining_s=0.1)
    assert len(notes) == 1
    later = iter([nodes(Share(1, 0)), nodes(Share(1, 0), Share(1, 0))])
    monkeypatch.setattr(Seats, "of_cluster", lambda: next(later))
    check_room(lacking, notes.append, joining_s=30)


def test_an_autoscaler_is_waited_for_and_what_it_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes(Share(1, 0)))
    monkeypatch.setenv("TUTELAGE_AUTOSCALING", "1")
    notes: list[str] = []
    check_room(demo("workers={count: 2}"), notes.append)
    (note,) = notes
    assert "workers.count: 2 workers" in note


def test_teachers_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    quarter = Share(0.5, 0.25)
    assert num_seated(quarter, nodes(Share(8, 1)), most=9) == 4
    assert num_seated(quarter, nodes(Share(1, 1)), most=9) == 2
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes(Share(8, 2)))
    worker, teachers = [Share(1, 1)], [Placement(2, cpus=1, gpus=0.25), Placement(1, 1, 0.5)]
    assert fits(teachers, workers=worker)
    assert not fits([*teachers, Placement(1, cpus=0, gpus=0.25)], workers=worker)


# --- what is said


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ResizeEvent("kd", 0, None, 1, "of 1 to 2"), "kd: 1 worker at first, of 1 to 2"),
        (
            ResizeEvent("kd", 3, 2, 1, "node 10.0.0.2 was lost"),
            "kd: 2 workers → 1 after epoch 3: node 10.0.0.2 was lost",
        ),
        (
            ResizeEvent("kd", 0, 1, 3, "node 10.0.0.3 joined"),
            "kd: 1 worker → 3 before the first epoch's end: node 10.0.0.3 joined",
        ),
        (
            ResizeEvent("kd", 2, 1, 0, "node 10.0.0.2 was lost"),
            "kd: 1 worker → 0 after epoch 2: node 10.0.0.2 was lost; waiting for room",
        ),
    ],
)
def test_a_resize_is_told_in_a_line(event: Event, line: str) -> None:
    shown = io.StringIO()
    with Display(shown) as display:
        TrainingProgress(display).on_event(event)
    assert line in shown.getvalue().splitlines()
