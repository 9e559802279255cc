"""What TensorBoard and the metrics table say of a run."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from distill.parallel import ALONE
from distill.signals import LossReport
from distill.weight_tables import WeightSums, WeightTable
from orchestrator.runs import RunFolder
from orchestrator.tracking import RunTracker, flatten
from orchestrator.weights_by_class import weights_path

STEPS = 3
NAMES = ["shirt", "coat", "bag"]
CONFIG = {
    "method": {"name": "kd", "temperature": 4.0},
    "teachers": [{"name": "big"}],
    "views": {"flip": True},
}


def table(loss: float) -> WeightTable:
    """Two teachers of equal weight, of which ``loss`` says the samples of the first class."""
    sums = WeightSums(torch.device("cpu"))
    labels = torch.tensor([0] * int(loss) + [1])
    even = torch.full((len(labels),), 0.5)
    report = LossReport({}, weights={"teacher_weight": {"a": even, "b": even}})
    sums.add(report, labels, num_classes=3)
    return sums.tables(ALONE)["teacher_weight"]


def train(run: RunFolder, start: int, end: int, *, loss: float) -> RunTracker:
    """Report epochs ``start`` to ``end``, all of one ``loss``."""
    tracker = RunTracker(run, CONFIG, start, num_epochs=4, class_names=NAMES)
    for epoch in range(start, end):
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            tracker.on_step(step, {"ce": loss, "kd": 2 * loss}, lr=0.1)
        weights = {"teacher_weight": table(loss)}
        tracker.on_weights(epoch, weights, step=(epoch + 1) * STEPS - 1)
        row = {"loss/ce": loss, "accuracy/validation": epoch / 10}
        tracker.on_epoch(epoch, row, step=(epoch + 1) * STEPS - 1)
    return tracker


def read(run: RunFolder) -> EventAccumulator:
    # Size 0 keeps every event; TensorBoard samples by default.
    kinds = ("scalars", "tensors", "histograms", "images")
    events = EventAccumulator(str(run.path), size_guidance=dict.fromkeys(kinds, 0))
    return events.Reload()


def scalars(run: RunFolder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run).Scalars(tag)]


def test_steps_and_epochs_are_written_with_their_terms(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, 0, 2, loss=1.0).close()
    assert scalars(run, "step/loss/ce") == [(step, 1.0) for step in range(6)]
    assert scalars(run, "step/loss/total") == [(step, 3.0) for step in range(6)]
    assert scalars(run, "step/learning_rate")[0][1] == pytest.approx(0.1)
    assert scalars(run, "loss/ce") == [(2, 1.0), (5, 1.0)]
    assert scalars(run, "epoch") == [(2, 0.0), (5, 1.0)]


def test_the_metrics_table_gets_the_same_rows(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, 0, 2, loss=1.0).close()
    rows = run.metrics().to_dict("list")
    assert rows["epoch"] == [0, 1]
    assert rows["global_step"] == [2, 5]
    assert rows["accuracy/validation"] == [0.0, 0.1]


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, 0, 3, loss=1.0).close()
    train(run, 2, 4, loss=5.0).close()
    steps = [1.0] * 6 + [5.0] * 6
    assert scalars(run, "step/loss/ce") == list(enumerate(steps))
    assert scalars(run, "loss/ce") == [(2, 1.0), (5, 1.0), (8, 5.0), (11, 5.0)]
    assert list(run.metrics()["loss/ce"]) == [1.0, 1.0, 5.0, 5.0]


def test_a_resumed_run_has_every_epochs_weights_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, 0, 3, loss=1.0).close()
    train(run, 2, 4, loss=5.0).close()
    rows = pq.read_table(weights_path(run)).to_pandas()
    first = rows[(rows["class_name"] == "shirt") & (rows["teacher"] == "b")]
    assert list(first["epoch"]) == [0, 1, 2, 3]
    assert list(first["samples"]) == [1, 1, 5, 5]
    events = read(run)
    drawn = [event.step for event in events.Images("teacher_weight_by_class")]
    histograms = events.Histograms("teacher_weight_histogram/b")
    assert drawn == [event.step for event in histograms] == [2, 5, 8, 11]
    assert [event.histogram_value.num for event in histograms] == [2, 2, 6, 6]


def test_steps_of_an_epoch_cut_short_are_purged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    tracker = train(run, 0, 1, loss=1.0)
    tracker.on_step(3, {"ce": 9.0}, lr=0.1)
    tracker.close()
    train(run, 1, 2, loss=5.0).close()
    assert scalars(run, "step/loss/ce") == list(enumerate([1.0] * 3 + [5.0] * 3))


def test_a_run_begun_anew_forgets_the_old_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, 0, 3, loss=1.0).close()
    train(run, 0, 1, loss=5.0).close()
    assert scalars(run, "loss/ce") == [(2, 5.0)]
    assert list(run.metrics()["loss/ce"]) == [5.0]


def test_the_result_becomes_hparams_in_the_same_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    result = {"method": "kd", "seed": 0, "test_accuracy": 0.75, "teachers": {}}
    train(run, 0, 1, loss=1.0).close(result)
    assert scalars(run, "result/test_accuracy") == [(2, 0.75)]
    assert "result/seed" not in read(run).Tags()["scalars"]
    plugins = read(run).summary_metadata
    tags = {tag for tag, data in plugins.items() if data.plugin_data.plugin_name == "hparams"}
    # No columns: they are of all runs.
    assert tags == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    content = plugins[metadata.SESSION_START_INFO_TAG].plugin_data.content
    row = metadata.parse_session_start_info_plugin_data(content)
    assert row.hparams["method.temperature"].number_value == 4
    assert row.hparams["views.flip"].bool_value is True
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_was_not_measured_is_no_result(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    train(run, 0, 1, loss=1.0).close({"test_accuracy": math.nan, "seconds": 2.0})
    results = [tag for tag in read(run).Tags()["scalars"] if tag.startswith("result/")]
    assert results == ["result/seconds"]


def test_flatten_gives_dotted_scalars() -> None:
    config = {"a": {"b": [1, {"c": None}]}, "d": True, "e": "x", "f": Path("y"), "g": []}
    flat = {"a.b.0": 1, "d": True, "e": "x", "f": "y"}
    assert flatten(config) == flat
