"""Two processes train one student together, by the learners that have state of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distill.parallel import ALONE
from distill.signals import Progress
from tests import pair, residents
from tests.meta import WIDTH, batch_of, same

Results = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What rank 0 and rank 1 came to."""
    folder = tmp_path_factory.mktemp("pair")
    torch.multiprocessing.spawn(pair.work, (f"file://{folder}/group", str(folder)), nprocs=2)
    one, two = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return one, two


def test_gradients_of_weights_are_averaged(results: Results) -> None:
    one, two = (result["bilevel"] for result in results)
    assert not torch.allclose(one["alone"], two["alone"])
    torch.testing.assert_close(one["averaged"], (one["alone"] + two["alone"]) / 2)
    assert torch.equal(one["averaged"], two["averaged"])
    assert torch.equal(one["weights"], two["weights"])
    assert one["row"] == two["row"]


def test_the_first_rank_saves_both_buffers(results: Results) -> None:
    one, two = (result["bilevel"] for result in results)
    assert same(one["buffers"], [one["buffer"], two["buffer"]])
    assert not same(one["buffer"], two["buffer"])


def test_two_workers_follow_one_with_teachers_that_move(results: Results) -> None:
    first, second = (result["adaptive_teacher"] for result in results)
    alone = residents.make(norm="none")
    residents.freeze_statistics(alone)
    for step in range(3):
        batch = batch_of(2 * WIDTH, seed=step)
        alone.step(batch, residents.NOTHING, progress=Progress(0, step, 1, 3), lr=0.05)
    assert torch.equal(first, second)
    expected = torch.cat(residents.shared(alone))
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-6)


def test_two_workers_weights_sum_to_what_one_has(results: Results) -> None:
    alone = pair.weigh(slice(None), ALONE)
    assert alone["counts"].sum() == 100
    for result in results:
        torch.testing.assert_close(result["weights"], alone)
