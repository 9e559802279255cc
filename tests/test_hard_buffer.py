"""The hard buffer: what it keeps, in what form, and how it is drawn from."""

from __future__ import annotations

import pytest
import torch

from distill.learners.hard_buffer import HardBuffer
from distill.signals import (
    TeacherSignals,
)
from tests.meta import (
    CLASSES,
    MAP,
    SPEC,
    WIDTH,
    answers,
    batch_of,
    draw,
)


def test_the_buffer_fills_with_whole_batches_then_takes_what_was_missed() -> None:
    buffer, generator = HardBuffer(12), torch.Generator().manual_seed(0)
    missed = torch.tensor([True, False] * 4)
    for seed in range(3):
        batch = batch_of(seed=seed)
        batch.labels.add_(100 * seed)
        buffer.add(batch, answers(("t0",), WIDTH, seed=seed), missed, generator=generator)
        assert buffer.is_full == (seed > 0)
    labels = sorted(buffer.draw(12, generator=generator).labels.tolist())
    assert [label for label in labels if label >= 200] == [200, 200, 202, 202]


def test_views_keep_their_own_labels_and_signals() -> None:
    buffer, generator = HardBuffer(12), torch.Generator().manual_seed(0)
    batches = [(batch_of(seed=s), answers(("t0",), WIDTH, seed=50 + s)) for s in range(4)]
    for batch, signals in batches:
        buffer.add(batch, signals, batch.labels == 1, generator=generator)
    views = buffer.draw(12, generator=generator)
    for k, image in enumerate(views.images):
        ((batch, row, signals),) = [
            (b, row, s)
            for b, s in batches
            for row in range(WIDTH)
            if torch.equal(b.images[row], image)
        ]
        assert views.labels[k] == batch.labels[row]
        assert torch.equal(views.signals.of("t0", MAP)[k], signals.of("t0", MAP)[row])


def test_a_draw_has_no_view_twice_and_no_more_than_there_are() -> None:
    buffer, generator = HardBuffer(12), torch.Generator().manual_seed(0)
    missed = torch.zeros(WIDTH, dtype=torch.bool)
    buffer.add(batch_of(), answers(("t0",), WIDTH, seed=0), missed, generator=generator)
    drawn = buffer.draw(WIDTH, generator=generator)
    assert len({image.numpy().tobytes() for image in drawn.images}) == WIDTH
    with pytest.raises(ValueError, match="9 views to draw, and the buffer holds 8"):
        buffer.draw(9, generator=generator)


def test_signals_are_kept_in_the_form_they_came_in() -> None:
    buffer, generator = HardBuffer(4), torch.Generator().manual_seed(0)
    half = TeacherSignals({"t0": {SPEC: draw(WIDTH, CLASSES, seed=0).half()}})
    buffer.add(batch_of(), half, torch.ones(WIDTH, dtype=torch.bool), generator=generator)
    assert buffer.draw(4, generator=generator).signals.of("t0", SPEC).dtype == torch.float16
