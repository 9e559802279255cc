"""Sources: what a student is told is what the teacher says of exactly this input."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batches import BatchPlan
from distill.config import Experiment
from distill.datasets import load_data
from distill.models import build_model
from distill.models.checkpoints import load_weights
from distill.parallel import ALONE, Workers
from distill.signals import Batch, ModelOutput, SignalSpec
from orchestrator import sources
from orchestrator.recording import Recording
from orchestrator.run_student import batch_plan
from orchestrator.sources import CachedSource, LocalSource, NoSource
from orchestrator.teachers import Teacher, input_plan
from tests.helpers import asked_for, prepare, record_here, two_teachers

SPECS = ("logits", "stage2", "stage3@gap", "stage2@attention", "stage1@pool4")
PASSES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def experiment(fashion: Path, folder: Path) -> Experiment:
    return two_teachers(fashion, folder)


@pytest.fixture(scope="module", params=["float16", "float32"])
def recordings(experiment: Experiment, request: pytest.FixtureRequest) -> list[Recording]:
    servings = [asked_for(t.serving, *SPECS, codec=request.param) for t in prepare(experiment)]
    for serving in servings:
        record_here(serving, input_plan(experiment), range(PASSES))
    return [serving.recording for serving in servings]


def batches_of(experiment: Experiment) -> BatchPlan:
    return batch_plan(experiment, load_data(experiment.data), seed=5)


def local(experiment: Experiment, recordings: list[Recording]) -> LocalSource:
    plan, recipes = input_plan(experiment), [t.serving.recipe for t in prepare(experiment)]
    return LocalSource(
        {
            recording.teacher: (Teacher(recipe, plan), tuple(s.spec for s in recording.signals))
            for recording, recipe in zip(recordings, recipes, strict=True)
        }
    )


def forward(experiment: Experiment, index: int, batch: Batch) -> ModelOutput:
    """A teacher's own forward, from its file, with normalisation and views done by hand."""
    teacher, data = experiment.teachers[index], load_data(experiment.data)
    network = build_model(teacher.arch, num_classes=10, in_channels=1, image_size=14)
    load_weights(network, Path(teacher.checkpoint))
    own = teacher.normalization
    mean, std = (own.mean[0], own.std[0]) if own else (data.mean[0], data.std[0])
    images = experiment.views.render(data.train.gather(batch.indices)[0], batch.views)
    with torch.no_grad():
        return network.eval()((torch.from_numpy(images).float() / 255 - mean) / std)


def by_hand(output: ModelOutput, spec: str) -> Tensor:
    tap, _, reduction = spec.partition("@")
    features = output.logits if tap == "logits" else output.features[tap]
    match reduction:
        case "gap":
            return features.flatten(2).mean(2)
        case "attention":
            energy = features.pow(2).mean(1).flatten(1)
            return energy / energy.norm(dim=1, keepdim=True)
        case "pool4":
            return F.adaptive_avg_pool2d(features, 4)
        case _:
            return features


@pytest.mark.parametrize("epoch", range(PASSES + 1))
def test_records_are_the_teachers_own_answers_for_every_pass(
    experiment: Experiment, recordings: list[Recording], epoch: int
) -> None:
    source = CachedSource(recordings)
    rtol = 2e-5 if recordings[0].signals[0].codec == "float32" else 2**-11 * 1.1
    for step, batch in enumerate(batches_of(experiment).batches(epoch, ALONE)):
        if step % 5:
            continue
        signals = source.signals(batch)
        assert signals.teachers == ("a", "b")
        for index, name in enumerate(signals.teachers):
            output = forward(experiment, index, batch)
            for spec in SPECS:
                found, expected = signals.of(name, SignalSpec.parse(spec)), by_hand(output, spec)
                scale = float(expected.abs().max())
                torch.testing.assert_close(found.float(), expected, rtol=rtol, atol=1e-5 * scale)


def test_each_pass_has_answers_of_its_own(
    experiment: Experiment, recordings: list[Recording]
) -> None:
    source, plan = CachedSource(recordings), batches_of(experiment)
    batch = next(plan.batches(0, ALONE))
    other = Batch(batch.indices, batch.views, 1, batch.images, batch.labels, batch.num_global)
    assert not torch.allclose(source.signals(batch).logits(), source.signals(other).logits())


def test_a_teacher_in_the_worker_says_what_the_records_say(
    experiment: Experiment, recordings: list[Recording]
) -> None:
    cached, live = CachedSource(recordings), local(experiment, recordings)
    rtol = 2e-5 if recordings[0].signals[0].codec == "float32" else 2**-11 * 1.1
    for rank in (0, 1):
        batch = next(batches_of(experiment).batches(2, Workers(rank, 2)))
        found, expected = cached.signals(batch), live.signals(batch)
        for name in ("a", "b"):
            for spec in map(SignalSpec.parse, SPECS):
                ours, theirs = found.of(name, spec).float(), expected.of(name, spec)
                scale = float(theirs.abs().max())
                torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-5 * scale)
    assert live.seconds_waited > 0


def test_large_rows_gathered_ahead_are_the_same(
    experiment: Experiment, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LARGE_ROW", 1 << 30)
    plain = CachedSource(recordings)
    monkeypatch.setattr(sources, "LARGE_ROW", 1)
    ahead = CachedSource(recordings)
    plan = batches_of(experiment)
    batches = [batch for epoch in (0, 1) for batch in plan.batches(epoch, ALONE)]
    for batch in batches[:-1]:  # the last one is asked for when it is needed
        ahead.prefetch(batch)
    for batch in batches:
        found, expected = ahead.signals(batch), plain.signals(batch)
        assert all(
            found.of(name, spec).equal(expected.of(name, spec))
            for name in ("a", "b")
            for spec in map(SignalSpec.parse, SPECS)
        )
    ahead.close()


def test_closing_ends_a_thread_that_waits_for_a_pass(
    experiment: Experiment, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LARGE_ROW", 1)
    source = CachedSource(recordings)
    batch = next(batches_of(experiment).batches(0, ALONE))
    never = Batch(batch.indices, batch.views, 7, batch.images, batch.labels, batch.num_global)
    source.prefetch(never)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 5


def test_order_and_size_of_batches_do_not_matter(
    experiment: Experiment, recordings: list[Recording]
) -> None:
    source = CachedSource(recordings)
    batch = next(batches_of(experiment).batches(0, ALONE))
    part = slice(20, 3, -2)
    indices = np.ascontiguousarray(batch.indices[part])
    few = Batch(indices, batch.views[part], 0, batch.images, batch.labels, 32)
    for spec in map(SignalSpec.parse, SPECS):
        whole = source.signals(batch).of("b", spec).numpy()
        assert np.array_equal(source.signals(few).of("b", spec).numpy(), whole[part])


def test_a_source_waits_for_the_pass_it_needs_and_no_other(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    servings, plan = [t.serving for t in prepare(experiment)], input_plan(experiment)
    for serving in servings:
        record_here(serving, plan, [1])
    source = CachedSource([serving.recording for serving in servings])
    source.signals(next(batches_of(experiment).batches(1, ALONE)))
    assert source.seconds_waited < 0.2

    def later() -> None:
        time.sleep(0.5)
        for serving in servings:
            record_here(serving, plan, [0])

    thread = threading.Thread(target=later)
    thread.start()
    source.signals(next(batches_of(experiment).batches(0, ALONE)))
    thread.join()
    assert source.seconds_waited > 0.4


def test_a_student_without_teachers_is_told_nothing(experiment: Experiment) -> None:
    source = NoSource()
    batch = next(batches_of(experiment).batches(0, ALONE))
    source.prefetch(batch)
    assert source.signals(batch).values == {}
    assert source.seconds_waited == 0
