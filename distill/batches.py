"""Rendered batches of an epoch: the same global batches for any number of workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from distill.datasets import Split
from distill.parallel import Workers
from distill.signals import Batch
from distill.views import Identity, ViewSpace, epoch_order, pass_views

LOOKAHEAD = 4  # batches rendered before they are needed


@final
@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which inputs an epoch's batches hold; a function of (seed, epoch) and nothing else.

    Epoch e trains on pass e mod ``num_passes``. A last, smaller batch is left out: every epoch has
    another order, so no sample is left out for good.
    """

    split: Split
    views: ViewSpace
    batch_size: int  # global
    num_passes: int
    seed: int
    plan_seed: int

    @property
    def steps_per_epoch(self) -> int:
        return len(self.split) // self.batch_size

    def batches(self, epoch: int, workers: Workers) -> Iterator[Batch]:
        """This worker's shares of the epoch's global batches, rendered, in order."""
        order = epoch_order(len(self.split), seed=self.seed, epoch=epoch)
        pass_index = epoch % self.num_passes
        # All at once: the plan's cost is a call's, not a sample's.
        views = pass_views(
            order, pass_index=pass_index, num_views=self.views.num_views, seed=self.plan_seed
        )
        mine = workers.share(self.batch_size)
        for step in range(self.steps_per_epoch):
            start = step * self.batch_size
            rows = slice(start + mine.start, start + mine.stop)
            yield self._render(order[rows], views[rows], pass_index)

    def _render(self, indices: np.ndarray, views: np.ndarray, pass_index: int) -> Batch:
        images, labels = self.split.gather(indices)
        return Batch(
            indices=indices,
            views=views,
            pass_index=pass_index,
            images=torch.from_numpy(self.views.render(images, views)),
            labels=torch.from_numpy(labels),
            num_global=self.batch_size,
        )


def plain_batches(split: Split, rows: np.ndarray, *, batch_size: int) -> Iterator[Batch]:
    """Batches of a split as it is, without augmentation: for evaluation."""
    identity = Identity(kind="identity")
    for start in range(0, len(rows), batch_size):
        indices = rows[start : start + batch_size]
        views = np.zeros(len(indices), dtype=np.int64)
        images, labels = split.gather(indices)
        yield Batch(
            indices=indices,
            views=views,
            pass_index=0,
            images=torch.from_numpy(identity.render(images, views)),
            labels=torch.from_numpy(labels),
            num_global=len(indices),
        )


def look_ahead(batches: Iterator[Batch], *, depth: int = LOOKAHEAD) -> Iterator[tuple[Batch, bool]]:
    """Render in a thread, ``depth`` batches ahead.

    Yields each batch twice: first, with True, as soon as it is rendered, so that its signals can be
    asked for; later, with False, when its turn to be trained on has come.
    """
    waiting: deque[Batch] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="render") as executor:
        futures: deque[Future[Batch | None]] = deque()

        def submit() -> None:
            futures.append(executor.submit(next, batches, None))

        for _ in range(depth):
            submit()
        while futures or waiting:
            while futures and (futures[0].done() or not waiting):
                batch = futures.popleft().result()
                if batch is None:
                    futures.clear()
                    break
                waiting.append(batch)
                yield batch, True
            if waiting:
                submit()  # one for one: rendering faster than training must not fill the memory
                yield waiting.popleft(), False
