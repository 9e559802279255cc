"""The closed formulas, alone and against the simulation of parts, queues and servers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.estimates import (
    DOWNLINK,
    EXCHANGE,
    FORWARD,
    MIRRORING,
    READING,
    STEPS,
    UPLINK,
    WRITING,
    estimate,
    exchange_s,
    shared,
)
from orchestrator.simulation import simulate
from orchestrator.workload import RunLoad, Site, TeacherLoad, Workload

PASSES = 10


def teacher(name: str = "a", **changes: Any) -> TeacherLoad:
    """100 s a pass for one actor: 20 parts of 50 images."""
    fields: dict[str, Any] = {
        "name": name,
        "images_per_s": 10.0,
        "actors": 1,
        "units": 1.0,
        "images": 1000 * PASSES,
        "parts": 20 * PASSES,
        "passes": tuple(range(PASSES)),
        "row_bytes": 100,
    }
    return TeacherLoad(**fields | changes)


def run(title: str = "kd", **changes: Any) -> RunLoad:
    """30 epochs of 50 s."""
    fields: dict[str, Any] = {
        "title": title,
        "epochs": range(30),
        "images": 1000,
        "images_per_s": 20.0,
        "row_bytes": 100,
    }
    return RunLoad(**fields | changes)


def work(*teachers: TeacherLoad, runs: tuple[RunLoad, ...] = (run(),), **changes: Any) -> Workload:
    fields: dict[str, Any] = {"num_passes": PASSES, "side_by_side": True}
    return Workload(teachers=teachers or (teacher(),), runs=runs, **fields | changes)


WIDE = Site(capacity=100.0)


def test_a_student_waits_for_its_first_pass_then_for_the_slower_of_the_two() -> None:
    """P + N E where recording is faster, N P + (epochs left) E where it is slower."""
    quick = estimate(work(teacher(images_per_s=40.0)), WIDE)
    assert quick.total_s == pytest.approx(25 + 30 * 50)
    slow = estimate(work(), WIDE)
    assert slow.total_s == pytest.approx(10 * 100 + 21 * 50)
    assert slow.waiting_s == pytest.approx(10 * 100 - 9 * 50)


def test_recording_before_training_adds_up() -> None:
    assert estimate(work(side_by_side=False), WIDE).total_s == pytest.approx(1000 + 30 * 50)


def test_a_run_without_records_waits_for_none() -> None:
    both = estimate(work(runs=(run("ce", row_bytes=0), run())), WIDE)
    assert both.waiting_s == 0
    assert both.runs["ce"] == pytest.approx(30 * 50)


def test_actors_that_share_cores_end_as_processor_sharing_says() -> None:
    """Three of 1, 1 and 4 seconds on two cores: 1.5, 1.5 and 4.5."""
    units = dict.fromkeys("abc", 1.0)
    ends = shared({"a": 1.0, "b": 1.0, "c": 4.0}, units, capacity=2.0)
    assert ends == pytest.approx({"a": 1.5, "b": 1.5, "c": 4.5})


def test_a_run_is_slower_only_as_long_as_teachers_share_its_core() -> None:
    """50 s of recording and 100 s of training on one core: 100 s side by side, then 50 s alone."""
    short = teacher(images=500, parts=10, passes=(0,))
    alone = run("ce", row_bytes=0, epochs=range(1), images=2000)
    both = estimate(work(short, runs=(alone,)), Site(capacity=1.0))
    assert (both.recording_s, both.total_s) == pytest.approx((100, 150))


def test_no_more_actors_work_than_there_are_parts() -> None:
    few = teacher(parts=4, actors=100)
    assert estimate(work(few), WIDE).recording_s == pytest.approx(1000 / 4)


def test_a_window_records_no_further_ahead_than_it_may() -> None:
    """Passes of 25 s for epochs of 50: the last is begun when the eighth epoch begins."""
    quick = work(teacher(images_per_s=40.0), ahead=2, runs=(run(epochs=range(PASSES)),))
    assert estimate(quick, WIDE).recording_s == pytest.approx(25 + 7 * 50 + 25)
    assert estimate(replace(quick, ahead=None), WIDE).recording_s == pytest.approx(250)


def test_gradients_take_twice_their_bytes_through_a_ring() -> None:
    assert exchange_s(10**6, num_nodes=1, network_bytes_s=1e6) == 0
    assert exchange_s(10**6, num_nodes=4, network_bytes_s=1e6) == pytest.approx(2 * 4 * 3 / 4)


@pytest.mark.parametrize(
    ("load", "site", "limit"),
    [
        (work(teacher(images_per_s=1.0)), WIDE, FORWARD),
        (work(), replace(WIDE, write_bytes_s=200.0), WRITING),
        (work(runs=(run(row_bytes=0),)), replace(WIDE, network_bytes_s=200.0), UPLINK),
        (work(), WIDE, STEPS),
        (work(runs=(run(exchange_s=99.0),)), WIDE, EXCHANGE),
        (work(), replace(WIDE, read_bytes_s=1000.0), READING),
        (work(runs=(run(row_bytes=10**5),)), replace(WIDE, network_bytes_s=1e4), DOWNLINK),
        (work(), replace(WIDE, read_bytes_s=10.0, is_mirrored=True), MIRRORING),
    ],
)
def test_what_there_is_too_little_of_is_named(load: Workload, site: Site, limit: str) -> None:
    assert estimate(load, site).limit == limit


CASES = {
    "one actor, quick": (work(teacher(images_per_s=40.0)), WIDE),
    "one actor, slow": (work(), WIDE),
    "before training": (work(side_by_side=False), WIDE),
    "many actors": (work(teacher(actors=8), teacher("b", actors=4, images_per_s=15.0)), WIDE),
    "shared cores": (
        work(
            *(teacher(n, images_per_s=r) for n, r in zip("abc", (10, 20, 40), strict=True)),
            side_by_side=False,
        ),
        Site(capacity=2.0),
    ),
    "sharing cores with a student": (work(teacher(actors=3)), Site(capacity=3.0)),
    "two runs and a baseline": (
        work(runs=(run("ce", row_bytes=0), run(), run("kd seed 1"))),
        WIDE,
    ),
    # Of few actors that write at one time none computes meanwhile: the formula is for many.
    "slow storage": (work(teacher(actors=16)), replace(WIDE, write_bytes_s=2000.0)),
    "slow readers": (work(), replace(WIDE, read_bytes_s=1000.0)),
    "slow network": (
        work(teacher(actors=4), runs=(run(num_nodes=4),)),
        replace(WIDE, num_nodes=4, network_bytes_s=500.0),
    ),
    "mirrored": (
        work(teacher(actors=4), runs=(run(num_nodes=4),)),
        replace(WIDE, num_nodes=4, network_bytes_s=1e4, read_bytes_s=2e4, is_mirrored=True),
    ),
    "mirrored, small disks": (
        work(teacher(actors=4), runs=(run(num_nodes=4),)),
        replace(
            WIDE,
            num_nodes=4,
            network_bytes_s=1e4,
            read_bytes_s=2e4,
            disk_bytes=2e5,
            is_mirrored=True,
        ),
    ),
    "a window": (work(teacher(images_per_s=40.0), ahead=2, runs=(run(epochs=range(10)),)), WIDE),
    "images from disk": (
        work(teacher(actors=40), image_bytes=1000),
        replace(WIDE, num_nodes=2, disk_bytes_s=15000.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_formula_agrees_with_the_simulation(name: str) -> None:
    load, site = CASES[name]
    formula, played = estimate(load, site), simulate(load, site, jitter=0.1)
    assert formula.total_s == pytest.approx(played.end_s, rel=0.1)
    assert formula.recording_s == pytest.approx(played.recording_s, rel=0.1)
    assert sum(formula.runs.values()) == pytest.approx(sum(played.runs.values()), rel=0.1)


def test_a_played_window_is_never_further_ahead_than_it_may_be() -> None:
    load, site = CASES["a window"]
    assert simulate(load, site).passes_ahead <= 3
    assert simulate(replace(load, ahead=None), site).passes_ahead > 3


def test_transfers_share_bandwidth_evenly() -> None:
    """Four actors write parts of 5 s at 1/4 of the bandwidth each: as if one after the other."""
    load = work(teacher(actors=4, images_per_s=1e9), side_by_side=False)
    played = simulate(load, replace(WIDE, write_bytes_s=1000.0))
    assert played.recording_s == pytest.approx(1000.0)


def test_a_simulation_with_the_same_seed_plays_the_same() -> None:
    played = [simulate(work(), WIDE, jitter=0.3, seed=seed).end_s for seed in (0, 0, 1)]
    assert played[0] == played[1] != played[2]
