"""The benchmarks run on tiny data and name every figure; no test looks at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import common, gather, methods, peers, recording, results, signals, views
from benchmarks.signal_epochs import FreeSource
from benchmarks.torchdistill_job import Pictures
from benchmarks.workbench import HintConfig, epoch_plan, fill, make_bench
from distill.loading import load_experiment, shipped_experiments
from distill.methods import method_names
from distill.methods.kd import Config as KDConfig
from distill.parallel import ALONE
from distill.signals import LOGITS
from orchestrator.fleet import Fleet
from orchestrator.sources import CachedSource


def test_a_ratio_compares_variants_within_a_round() -> None:
    rounds = {"slow": [2.0, 30.0, 40.0], "fast": [1.0, 30.0, 10.0]}
    assert common.median_ratio(rounds, "slow", "fast") == 2.0


def test_variants_take_turns_and_every_other_round_runs_backwards() -> None:
    order: list[str] = []
    calls = {name: lambda n=name: float(order.append(n) or len(order)) for name in "ab"}
    rounds = common.interleaved(calls, num_rounds=2)
    assert "".join(order) == "ab" + "ab" + "ba"
    assert rounds == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_figures_are_one_flat_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = common.Results()
    results.add("ratio", 1.5, "of two")
    file = tmp_path / "out.json"
    target = common.Target("at most", 1)
    assert not common.report("title", results, targets={"ratio": target}, json_file=file)
    written = json.loads(file.read_text())
    assert written["ratio"] == 1.5
    assert "torch" in written["environment"]
    assert "at most 1: MISSED" in capsys.readouterr().out
    assert common.report("title", results, targets={"ratio": common.Target("at least", 1)})
    assert "at least 1: met" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bound", "met"), [("at most", (True, False)), ("at least", (False, True))]
)
def test_a_target_knows_its_direction(bound: str, met: tuple[bool, bool]) -> None:
    target = common.Target(bound, 1.0)  # pyright: ignore[reportArgumentType]
    assert (target.met(0.9), target.met(1.1)) == met


def test_views_name_their_figures() -> None:
    figures = views.measure(batch_size=4, num_samples=16, num_rounds=1).figures
    assert {"crop_flip_us", "torchvision_tensor_over_crop_flip"} <= figures.keys()


def test_a_plain_copy_holds_the_bytes_of_the_store(tmp_path: Path) -> None:
    column = gather.make_column(tmp_path, LOGITS, (20,), "float16", 5000)
    plain = gather.copy_plain(column, tmp_path / "plain")()
    assert np.array_equal(plain, column.open_pass(0))


def test_an_epoch_of_batches_gathers_rows_once() -> None:
    rows = np.concatenate(list(gather.batches(64 * 3 + 5)))
    assert len(rows) == len(set(rows.tolist())) == 64 * 3


def test_a_view_takes_the_bytes_that_are_promised(tmp_path: Path) -> None:
    results = common.Results()
    gather.measure_bytes(tmp_path, results, num_views=8192)
    assert results.figures["bytes_per_view_top10"] <= 40
    assert results.figures["bytes_per_view_dense"] <= 204


def test_private_memory_and_both_walks_are_measured(tmp_path: Path) -> None:
    results = common.Results()
    gather.measure_growth(tmp_path, results, num_rows=64, num_rounds=1)
    assert results.figures["private_mib_small"] > 0
    assert {"gather_growth_10x", "private_growth_10x"} <= results.figures.keys()


def test_free_signals_are_those_of_the_store(fashion: Path, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, {"name": "arrays", "file": fashion}, ["resnet8"], KDConfig())
    fill(bench)
    batches = list(epoch_plan(bench).batches(0, ALONE))
    stored = CachedSource(bench.recordings)
    free = FreeSource(stored, batches)
    for batch in batches:
        assert free.signals(batch).logits().equal(stored.signals(batch).logits())


@pytest.mark.ray
def test_an_epoch_from_every_source(fashion: Path, tmp_path: Path) -> None:
    data = {"name": "arrays", "file": fashion}
    logits = make_bench(tmp_path / "logits", data, ["resnet8"] * 5, KDConfig())
    features = make_bench(tmp_path / "features", data, ["resnet8"] * 3, HintConfig())
    with Fleet() as fleet:
        signals.record(logits.first(1), fleet)
        fill(logits)
        fill(features)
        results = signals.measure(
            logits, features, fleet, num_rounds=1, num_samples=128, num_live=64
        )
    assert signals.TARGETS.keys() < results.figures.keys()
    assert min(results.figures.values()) > 0


@pytest.mark.ray
def test_recorders_take_turns_with_the_bare_loop(fashion: Path, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, {"name": "arrays", "file": fashion}, ["resnet8"], KDConfig())
    results = recording.measure(bench, tmp_path, num_rounds=2, passes_per_turn=1)
    assert recording.TARGETS.keys() < results.figures.keys()
    for num_actors in (1, 2):
        recorded = list((tmp_path / str(num_actors)).rglob("pass-*/*"))
        assert len(recorded) == 3  # a part a pass: one turn to start, two to measure


def test_without_torchdistill_peers_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    assert peers.main(["--quick"]) == 2
    assert "pip install torchdistill" in capsys.readouterr().err


def test_totals_add_start_recording_and_epochs() -> None:
    results = common.Results()
    measured = {"start_s": 6, "record_pass_s": 3, "cached_epoch_s": 1, "torchdistill_epoch_s": 10}
    for name, figure in measured.items():
        results.add(name, figure)
    peers.add_totals(results)
    assert results.figures["torchdistill_over_ours_e1"] == 10 / (6 + 3 + 1)
    assert results.figures["torchdistill_over_ours_e30"] == 300 / (6 + 90 + 30)
    assert results.figures["torchdistill_over_ours_e30_passes5"] == 300 / (6 + 15 + 30)


def test_pictures_are_the_split_augmented_and_normalised(fashion: Path, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, {"name": "arrays", "file": fashion}, ["resnet8"], KDConfig())
    pictures = Pictures(bench)
    items = [pictures[index] for index in range(len(pictures))]
    assert [label for _, label in items] == bench.data.train.labels.tolist()
    image = items[0][0]
    assert image.shape == (1, 14, 14)
    black = (0 - bench.data.mean[0]) / bench.data.std[0]
    assert float(image.min()) == pytest.approx(black)


def test_a_recorder_waits_for_its_turn() -> None:
    turns = recording.Turns(10, passes_per_turn=2)
    assert not turns.may_record(0)


def test_every_method_is_timed_beside_ce(fashion: Path, tmp_path: Path) -> None:
    timed = {*methods.PURE_LOSS, *methods.WITH_ADAPTERS, methods.TEACHERS_TRAINED, "ce"}
    assert {label.partition("_")[0] for label in timed} == set(method_names())
    data = {"name": "arrays", "file": fashion}
    few = {"num_teachers": (methods.FEW,), "num_rounds": 1, "num_steps": 1}
    figures = methods.measure(tmp_path, data, **few).figures
    assert methods.TARGETS.keys() < figures.keys()


def test_a_meta_step_is_what_it_adds_to_the_steps_between() -> None:
    labels = (*methods.PURE_LOSS, *methods.WITH_ADAPTERS, methods.TEACHERS_TRAINED)
    rates = {f"{label}_k3": [100.0] for label in labels} | {"ce": [120.0], "mmkd_k3": [25.0]}
    figures = methods.summarise(rates, num_teachers=(3,)).figures
    assert figures["mmkd_over_ce_k3"] == 120 / 25
    assert figures["mmkd_meta_over_step"] == methods.META_EVERY * (100 / 25 - 1)
    assert figures["worst_loss_only_over_ce_k3"] == pytest.approx(1.2)


def test_results_train_every_experiment_of_the_protocol_and_every_method() -> None:
    jobs = results.jobs()
    trained = {arguments[1] for arguments in jobs.values()}
    assert trained == {name for name in shipped_experiments() if name.startswith("fmnist")}
    named = {method.name for name in trained for method in load_experiment(name).methods}
    assert named == set(method_names())
    assert next(iter(jobs)).startswith(results.LONGEST)
