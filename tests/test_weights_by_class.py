"""Teachers' weights over an epoch: sums by class, histograms, what is written of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from distill.datasets import load_data
from distill.parallel import ALONE
from distill.signals import LossReport
from distill.weight_tables import BINS, WeightSums, WeightTable
from orchestrator.heat_maps import draw_weights
from orchestrator.jobs import student_jobs
from orchestrator.preparation import file_accuracy
from orchestrator.runs import RunFolder
from orchestrator.students import train_students
from orchestrator.weights_by_class import MAX_PICTURES, picture_epochs, weights_path
from tests.helpers import CPU, prepare, two_teachers

CLASSES = 5
NAMES = ("a", "b", "c")
KIND = "teacher_weight"


def draw(num: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights [T, B] and labels [B]; class 4 has no sample."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(NAMES), num, generator=generator).softmax(0)
    return weights, torch.randint(0, CLASSES - 1, (num,), generator=generator)


def table(
    weights_TB: Tensor, labels: Tensor, *, names: Sequence[str] = NAMES, batch: int = 7
) -> WeightTable:
    """What an epoch in steps of ``batch`` samples adds up to."""
    sums = WeightSums(CPU)
    for part, some in zip(weights_TB.split(batch, dim=1), labels.split(batch), strict=True):
        report = LossReport({}, weights={KIND: dict(zip(names, part, strict=True))})
        sums.add(report, some, num_classes=CLASSES)
    return sums.tables(ALONE)[KIND]


def parts(one: WeightTable) -> tuple[np.ndarray, ...]:
    return one.sums, one.counts, one.squares, one.histogram, np.array(one.entropies)


def close(one: WeightTable, other: WeightTable) -> bool:
    return all(map(np.allclose, parts(one), parts(other)))


def test_means_by_class_times_counts_are_the_plain_means() -> None:
    weights, labels = draw(500)
    got = table(weights, labels)
    for c in range(CLASSES - 1):
        np.testing.assert_allclose(got.by_class()[:, c], weights[:, labels == c].mean(1), rtol=1e-6)
    assert np.isnan(got.by_class()[:, -1]).all()
    assert got.counts.tolist() == torch.bincount(labels, minlength=CLASSES).tolist()
    total = np.nansum(got.by_class() * got.counts, axis=1) / got.counts.sum()
    np.testing.assert_allclose(total, weights.mean(1), rtol=1e-6)
    np.testing.assert_allclose(got.means(), total)


def test_steps_of_any_size_add_up_to_the_same() -> None:
    weights, labels = draw(500)
    whole = table(weights, labels, batch=500)
    assert all(close(whole, table(weights, labels, batch=size)) for size in (1, 5, 64))


def test_teachers_in_another_order_permute_the_rows() -> None:
    weights, labels = draw(60)
    order = [2, 0, 1]
    one = table(weights, labels)
    other = table(weights[order], labels, names=[NAMES[k] for k in order])
    assert other.teachers == ("c", "a", "b")
    np.testing.assert_array_equal(other.by_class(), one.by_class()[order])
    np.testing.assert_array_equal(other.histogram, one.histogram[order])
    assert other.entropies == pytest.approx(one.entropies)


def test_histograms_count_every_sample_in_its_bin() -> None:
    weights, labels = draw(300)
    weights[:, 0] = torch.tensor([1.0, 0.0, 0.0])
    got = table(weights, labels).histogram
    for k, row in enumerate(weights.double().numpy()):
        np.testing.assert_array_equal(got[k], np.histogram(row, bins=BINS, range=(0, 1))[0])


def test_rows_hold_means_and_the_entropy_of_what_each_teacher_counts() -> None:
    labels = torch.tensor([0, 1])
    two, even = [1.0, 1.0, 0.0], [2 / 3] * 3  # as EBKD's, they sum to T − 1
    row = table(torch.tensor([two, even]).T, labels).scalars(KIND)
    assert row.keys() == {f"{KIND}/{name}" for name in NAMES} | {f"{KIND}_entropy"}
    assert row[f"{KIND}/a"] == pytest.approx((1 + 2 / 3) / 2)
    assert row[f"{KIND}_entropy"] == pytest.approx((np.log(2) + np.log(3)) / 2)


def test_pictures_are_few_spread_evenly_and_end_with_the_last_epoch() -> None:
    for epochs in (1, 2, 9, 10, 11, 37, 240):
        drawn = sorted(picture_epochs(epochs))
        assert len(drawn) == min(epochs, MAX_PICTURES)
        assert drawn[-1] == epochs - 1
        gaps = np.diff(drawn)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_picture_shows_who_counts_more() -> None:
    weights = np.array([[0.9, 0.1, np.nan], [0.1, 0.9, np.nan]])
    picture, mirrored = (
        draw_weights(rows, teachers=["a", "b"], classes=["x", "y", "z"], title="")
        for rows in (weights, weights[::-1])
    )
    assert picture.dtype == np.uint8
    assert picture.shape == mirrored.shape
    assert not np.array_equal(picture, mirrored)
    red, blue, grey = ([178, 24, 43], [33, 102, 172], [153, 153, 153])  # about RdBu's ends
    for color in (red, blue, grey):
        near = np.abs(picture.astype(int) - color).max(axis=2) < 25
        assert near.mean() > 0.02


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
def test_pictures_stay_of_a_size_to_look_at(num_classes: int) -> None:
    weights = np.full((5, num_classes), 0.2)
    names = [f"a class of a long name {c}" for c in range(num_classes)]
    picture = draw_weights(weights, teachers=list("abcde"), classes=names, title="t")
    assert 250 < picture.shape[0] <= 2000
    assert 400 < picture.shape[1] < 700


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("camkd", {"teacher_weight", "feature_weight"}),
        ("mmkd", {"teacher_weight", "feature_weight"}),
        ("aekd", {"teacher_weight"}),
        ("kd", set()),
    ],
)
def test_a_whole_run_leaves_its_weights(
    fashion: Path, tmp_path: Path, method: str, kinds: set[str]
) -> None:
    changes = {"method": method, "signals.source": "local", "schedule.epochs": 1}
    experiment = two_teachers(fashion, tmp_path, changes)
    data, teachers = load_data(experiment.data), prepare(experiment)
    for teacher in teachers:
        file_accuracy(teacher, data, 0.5)
    job = student_jobs(experiment, teachers, data)[0]
    train_students([job], experiment.workers, storage=tmp_path, on_event=lambda _: None)
    run = RunFolder(job.folder)
    events = EventAccumulator(str(run.path)).Reload()
    assert set(events.Tags()["images"]) == {f"{kind}_by_class" for kind in kinds}
    histograms = {f"{kind}_histogram/{name}" for kind in kinds for name in "ab"}
    assert set(events.Tags()["histograms"]) == histograms
    assert weights_path(run).exists() == bool(kinds)
    for kind in kinds:
        rows = pq.read_table(weights_path(run), filters=[("kind", "==", kind)]).to_pandas()
        (metrics,) = run.metrics().to_dict("records")
        for name, own in rows.groupby("teacher"):
            mean = (own["weight"] * own["samples"]).sum() / own["samples"].sum()
            assert metrics[f"{kind}/{name}"] == pytest.approx(mean)
