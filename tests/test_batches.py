"""Batches: which samples, in which order, for whom; and rendering ahead of training."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.batches import LOOKAHEAD, BatchPlan, look_ahead, plain_batches
from distill.datasets import DataConfig, Split, load_data
from distill.parallel import ALONE, Workers
from distill.signals import Batch
from distill.views import CropFlip, pass_views

VIEWS = CropFlip(padding=1)


@pytest.fixture(scope="module")
def split(fashion: Path) -> Split:
    return load_data(DataConfig(name="arrays", file=fashion)).train


def plan(split: Split, **changes: int) -> BatchPlan:
    numbers = {"batch_size": 50, "num_passes": 2, "seed": 0, "plan_seed": 0} | changes
    return BatchPlan(split=split, views=VIEWS, **numbers)


def order(split: Split, epoch: int, **changes: int) -> list[int]:
    batches = plan(split, **changes).batches(epoch, ALONE)
    return np.concatenate([batch.indices for batch in batches]).tolist()


def empty_batches(count: int) -> Iterator[Batch]:
    nothing = np.zeros(0, np.int64)
    for index in range(count):
        yield Batch(nothing, nothing, index, torch.zeros(0), torch.zeros(0), 0)


def test_the_order_depends_on_seed_and_epoch_alone(split: Split) -> None:
    assert order(split, 3) == order(split, 3)
    assert order(split, 3) == order(split, 3, plan_seed=9, num_passes=7)
    orders = [order(split, 3), order(split, 4), order(split, 3, seed=1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert order(split, 3, batch_size=10)[:300] == order(split, 3)[:300]


def test_an_epoch_shows_no_sample_twice_and_drops_the_last_partial_batch(split: Split) -> None:
    seen = order(split, 0, batch_size=50)
    assert len(set(seen)) == len(seen) == len(split) // 50 * 50 < len(split)
    assert len(list(plan(split).batches(0, ALONE))) == plan(split).steps_per_epoch
    # What one epoch drops, others show.
    assert len(set(seen).union(*(order(split, e) for e in range(1, 9)))) == len(split)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_workers_share_each_global_batch_in_order(split: Split, size: int) -> None:
    whole = list(plan(split).batches(1, ALONE))
    shares = [list(plan(split).batches(1, Workers(rank, size))) for rank in range(size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert np.array_equal(np.concatenate([p.indices for p in parts]), batch.indices)
        assert torch.equal(torch.cat([p.images for p in parts]), batch.images)
        assert torch.equal(torch.cat([p.labels for p in parts]), batch.labels)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(part.num_global == 50 for part in parts)


def test_an_epoch_uses_the_pass_of_its_number_modulo_passes(split: Split) -> None:
    for epoch, expected in enumerate([0, 1, 2, 0, 1]):
        batch = next(plan(split, num_passes=3).batches(epoch, ALONE))
        assert batch.pass_index == expected
        views = pass_views(batch.indices, pass_index=expected, num_views=VIEWS.num_views, seed=0)
        assert np.array_equal(batch.views, views)
        images = VIEWS.render(split.gather(batch.indices)[0], views)
        assert np.array_equal(batch.images.numpy(), images)


def test_the_plan_seed_changes_the_views_and_not_the_order(split: Split) -> None:
    first, other = (next(plan(split, plan_seed=s).batches(0, ALONE)) for s in (0, 1))
    assert np.array_equal(first.indices, other.indices)
    assert not np.array_equal(first.views, other.views)


def test_plain_batches_are_the_images_as_they_are(split: Split) -> None:
    rows = np.arange(7, 30)
    batches = list(plain_batches(split, rows, batch_size=10))
    assert [len(batch) for batch in batches] == [10, 10, 3]
    images, labels = split.gather(rows)
    assert np.array_equal(torch.cat([b.images for b in batches]).numpy(), images)
    assert np.array_equal(torch.cat([b.labels for b in batches]).numpy(), labels)


@pytest.mark.parametrize("count", [0, 1, LOOKAHEAD, 23])
def test_look_ahead_gives_each_batch_once_new_then_once_in_its_turn(count: int) -> None:
    events = [(batch.pass_index, new) for batch, new in look_ahead(empty_batches(count))]
    for wanted in (True, False):
        assert [index for index, new in events if new is wanted] == list(range(count))
    assert all(events.index((i, True)) < events.index((i, False)) for i in range(count))


def test_look_ahead_renders_in_another_thread_but_only_so_far_ahead() -> None:
    rendered, trained, depths, threads = 0, 0, [], set()

    def source() -> Iterator[Batch]:
        nonlocal rendered
        for batch in empty_batches(60):
            rendered += 1
            threads.add(threading.current_thread())
            yield batch

    for _, new in look_ahead(source()):
        if not new:
            threading.Event().wait(0.002)  # training is slow: everything could be rendered
            depths.append(rendered - trained)
            trained += 1
    assert threading.current_thread() not in threads
    assert 1 < max(depths) <= LOOKAHEAD + 1


def test_look_ahead_passes_on_what_rendering_raises() -> None:
    def source() -> Iterator[Batch]:
        yield from empty_batches(2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(look_ahead(source()))
