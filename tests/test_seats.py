"""Actors are seated so that students' workers still find whole places on some node."""

from __future__ import annotations

import pytest

from distill.loading import ConfigError, load_experiment
from orchestrator.seats import Seats, Share, seat
from orchestrator.sweeps import concurrency

ONE, THIRD, GPU = Share(1, 0), Share(0.3, 0), Share(1, 1)


def nodes(*shares: Share) -> Seats:
    return Seats({f"n{i}": share for i, share in enumerate(shares)})


def test_what_a_sum_would_allow_may_not_fit_on_nodes() -> None:
    assert seat([ONE, ONE], [THIRD] * 3, nodes(ONE, ONE, ONE))
    assert not seat([ONE, ONE], [THIRD] * 4, nodes(ONE, ONE, ONE))  # 3.2 of 3 CPUs
    assert not seat([ONE] * 2, [Share(0.6, 0)] * 2, nodes(ONE, ONE, Share(1.2 - 0.1, 0)))


def test_actors_leave_the_places_that_workers_will_need() -> None:
    seats = nodes(ONE, ONE, ONE)
    assert seat([ONE, ONE], (), seats)
    taken = {seats.take(THIRD) for _ in range(3)}
    assert len(taken) == 1, "a third of each node would leave no worker a place"
    assert seats.take(THIRD) is None


def test_actors_spread_and_workers_stay_together() -> None:
    wide = nodes(Share(4, 0), Share(4, 0))
    assert {wide.take(ONE) for _ in range(2)} == {"n0", "n1"}
    wide = nodes(Share(4, 0), Share(4, 0))
    assert len({wide.take(ONE, together=True) for _ in range(3)}) == 1


def test_gpus_are_kept_for_those_who_ask() -> None:
    seats = nodes(Share(8, 2), Share(2, 0))
    assert [seats.take(ONE) for _ in range(3)] == ["n1", "n1", "n0"]
    assert seats.take(GPU) == "n0"
    assert not seat([GPU] * 3, (), nodes(Share(8, 2), Share(2, 0)))


@pytest.mark.parametrize("cpus", [0.1, 0.3, 0.7])
def test_what_is_given_back_can_be_taken_again(cpus: float) -> None:
    seats, share = nodes(ONE), Share(cpus, 0)
    for _ in range(50):
        taken = [node for _ in range(10) if (node := seats.take(share))]
        assert len(taken) == int(1 / cpus + 1e-6)
        for node in taken:
            seats.give_back(node, share)


@pytest.mark.parametrize(
    ("workers", "room"),
    [("{count: 0, cpus: 1}", 3), ("{count: 1, cpus: 0.5}", 6), ("{count: 2, cpus: 1}", 1)],
)
def test_trials_are_seated_whole(monkeypatch: pytest.MonkeyPatch, workers: str, room: int) -> None:
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes(ONE, ONE, ONE))
    assert concurrency(load_experiment("demo", [f"workers={workers}"])) == room


def test_a_worker_that_no_node_holds_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes(ONE, ONE, ONE))
    experiment = load_experiment("demo", ["workers={count: 1, cpus: 2}"])
    with pytest.raises(ConfigError, match=r"1 × 2 CPUs .* does not fit .* at most 1 CPUs on a nod"):
        concurrency(experiment)


def test_a_user_bounds_the_trials_and_a_cluster_that_grows_holds_what_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = load_experiment("demo", ["workers={count: 1, cpus: 1}"])
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes(ONE, ONE, ONE))
    assert [concurrency(experiment, at_most=n) for n in (None, 2, 8)] == [3, 2, 3]
    monkeypatch.setenv("TUTELAGE_AUTOSCALING", "1")
    assert [concurrency(experiment, at_most=n) for n in (None, 2, 8)] == [3, 2, 8]
    monkeypatch.setattr(Seats, "of_cluster", lambda: nodes())
    assert [concurrency(experiment, at_most=n) for n in (None, 8)] == [1, 8]


def test_two_halves_of_gpus_are_no_whole() -> None:
    """Ray keeps a process on one GPU: two of 0.75 leave a quarter of each, and not a half."""
    seats, most = nodes(Share(8, 2)), Share(0, 0.75)
    assert seats.take(most) == seats.take(most) == "n0"
    assert seats.take(Share(0, 0.5)) is None
    assert seats.take(Share(0, 0.25)) == "n0"
    seats.give_back("n0", most)
    assert seats.take(Share(0, 1)) is None  # the quarter is on the one, the other is taken
    assert seats.take(Share(0, 0.75)) == "n0"


def test_a_copy_of_seats_is_taken_apart_alone() -> None:
    seats = nodes(Share(2, 1))
    assert seats.take(Share(1, 0.5)) == "n0"
    copied = seats.copy()
    assert copied.take(Share(0, 1)) is None, "half of it is taken"
    assert copied.take(Share(1, 0.5)) == "n0"
    assert seats.take(Share(1, 0.5)) == "n0"
