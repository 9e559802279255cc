"""The folder that TensorBoard opens: its links, its names, and what it says of all runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata

from distill.loading import ConfigError
from orchestrator.runs import RunFolder
from orchestrator.tensorboard_folder import EventsView
from orchestrator.tracking import RunTracker
from orchestrator.trial_files import Note
from tests.helpers import tiny

ROW = {"accuracy/validation": 0.5, "accuracy/train": 0.4, "loss/total": 1.0, "loss/kd": 0.8}


def make_run(
    root: Path,
    method: str,
    seed: int = 0,
    *,
    folder: str = "tiny",
    digest: str = "d1",
    row: Any = ROW,
    **changes: Any,
) -> RunFolder:
    """A run of one epoch, by the real tracker; names of settings have ``__`` for a dot."""
    overrides = {path.replace("__", "."): value for path, value in changes.items()}
    experiment = tiny(Path("data.npz"), {"method": method, "seeds": [seed]} | overrides)
    run = RunFolder.at(root, experiment=folder, method=method, digest=digest, seed=seed)
    run.create(experiment.as_dict())
    tracker = RunTracker(run, experiment.as_dict(), num_epochs=1, class_names=["a"])
    tracker.on_epoch(0, row, step=9)
    tracker.close({"validation_accuracy": 0.5, "seconds": 2.0, "test_accuracy": float("nan")})
    return run


def folders(view: Path) -> list[str]:
    """The runs that TensorBoard finds, but for the one that tells of all."""
    found = {path.parent for path in view.rglob("*tfevents*")}
    names = sorted(str(path.relative_to(view)) for path in found)
    return [name for name in names if not name.startswith("~comparison-")]


def summaries(files: Iterable[Path], tag: str) -> list[Any]:
    events = (event for file in sorted(files) for event in EventFileLoader(str(file)).Load())
    return [value for event in events for value in event.summary.value if value.tag == tag]


def columns(view: Path) -> api_pb2.Experiment:
    (value,) = summaries(view.glob("~comparison-*/*"), metadata.EXPERIMENT_TAG)
    return metadata.parse_experiment_plugin_data(value.metadata.plugin_data.content)


def charts(view: Path) -> dict[str, list[str]]:
    """The patterns of tags, by category."""
    (value,) = summaries(view.glob("~comparison-*/*"), "custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    return {
        category.title: [tag for chart in category.chart for tag in chart.multiline.tag]
        for category in layout.category
    }


@pytest.fixture
def view(tmp_path: Path) -> EventsView:
    """An empty view of ``runs/tiny``, in ``view``, of a run of kd that is there already."""
    (tmp_path / "view").mkdir()
    make_run(tmp_path / "runs", "kd")
    return EventsView(tmp_path / "runs" / "tiny", tmp_path / "view")


def test_a_run_is_shown_under_what_sets_it_apart(tmp_path: Path, view: EventsView) -> None:
    assert view.refresh() == ["kd"]
    make_run(tmp_path / "runs", "kd", digest="d2", method__temperature=2)
    assert sorted(view.refresh()) == folders(tmp_path / "view")
    assert folders(tmp_path / "view") == ["kd temperature=2", "kd temperature=4"]
    make_run(tmp_path / "runs", "ce", 1)
    names = ["ce seed=1", "kd temperature=2 seed=0", "kd temperature=4 seed=0"]
    view.refresh()
    assert folders(tmp_path / "view") == names


def test_links_lead_to_the_files_that_runs_write(tmp_path: Path, view: EventsView) -> None:
    view.refresh()
    run = tmp_path / "runs" / "tiny" / "kd-d1" / "seed-0"
    links = {path.resolve() for path in (tmp_path / "view" / "kd").iterdir() if path.is_symlink()}
    assert links == set(run.glob("*tfevents*"))
    make_run(tmp_path / "runs", "kd")  # resumed: one more file
    view.refresh()
    links = {path.resolve() for path in (tmp_path / "view" / "kd").iterdir() if path.is_symlink()}
    assert len(links) == 2
    assert links == set(run.glob("*tfevents*"))


def test_a_run_whose_settings_change_while_it_trains_is_renamed(
    tmp_path: Path, view: EventsView
) -> None:
    """As trials of population based training do."""
    for temperature in (2, 8):
        make_run(tmp_path / "runs", "kd", digest="d2", method__temperature=temperature)
        view.refresh()
        names = [f"kd temperature={temperature}", "kd temperature=4"]
        assert folders(tmp_path / "view") == sorted(names)
        infos = {info.name: info for info in columns(tmp_path / "view").hparam_infos}
        domain = infos["method.temperature"].domain_interval
        assert (domain.min_value, domain.max_value) == (min(4, temperature), max(4, temperature))


def test_what_is_deleted_is_shown_no_more(tmp_path: Path, view: EventsView) -> None:
    run = make_run(tmp_path / "runs", "ce")
    view.refresh()
    assert folders(tmp_path / "view") == ["ce", "kd"]
    shutil.rmtree(run.path)
    assert view.refresh() == ["kd"]
    assert not (tmp_path / "view" / "ce").exists()
    assert len(list((tmp_path / "view").glob("~comparison-*"))) == 1


def test_a_view_of_several_experiments_keeps_them_apart(tmp_path: Path) -> None:
    (tmp_path / "view").mkdir()
    for experiment in ("a", "b/c"):
        make_run(tmp_path / "runs" / experiment, "kd")
        make_run(tmp_path / "runs" / experiment, "kd", 1)
    names = EventsView(tmp_path / "runs", tmp_path / "view").refresh()
    assert sorted(names) == folders(tmp_path / "view")
    assert names[:2] == ["a/tiny/kd seed=0", "a/tiny/kd seed=1"]
    assert names[2:] == ["b/c/tiny/kd seed=0", "b/c/tiny/kd seed=1"]


def test_a_single_run_can_be_viewed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "kd")
    for place, folder in enumerate((run.path, run.path.parent)):
        (tmp_path / f"view{place}").mkdir()
        assert EventsView(folder, tmp_path / f"view{place}").refresh() == ["kd"]


def test_other_events_stay_where_they_are_and_tunes_are_left_out(
    tmp_path: Path, view: EventsView
) -> None:
    root = tmp_path / "runs" / "tiny"
    (events,) = root.rglob("*tfevents*")
    for place in ("probes/recording", "tune-kd/ray/003", "kd-d1/seed-0/more"):
        (root / place).mkdir(parents=True)
        shutil.copy(events, root / place)
    (root / "tune-kd" / "sweep.json").touch()
    make_run(tmp_path / "runs", "kd", 1)
    view.refresh()
    shown = ["kd seed=0", "kd seed=0/more", "kd seed=1", "probes/recording"]
    assert folders(tmp_path / "view") == shown


def test_trials_of_a_sweep_are_told_by_their_numbers(tmp_path: Path, view: EventsView) -> None:
    for number in (3, 12):
        place = f"tiny/tune-kd/trials/kd-{number:03}/seed-0"
        Note(number, {}).write(RunFolder(tmp_path / "runs" / place))
        make_run(tmp_path / "runs", "kd", folder="tiny/tune-kd/trials", digest=f"{number:03}")
    view.refresh()
    trials = ["tune-kd/trials/kd trial=003", "tune-kd/trials/kd trial=012"]
    assert folders(tmp_path / "view") == ["kd", *trials]
    assert "trial" in [info.name for info in columns(tmp_path / "view").hparam_infos]


def test_columns_are_what_differs_with_its_type_and_domain(
    tmp_path: Path, view: EventsView
) -> None:
    make_run(tmp_path / "runs", "kd", 3, digest="d2", method__temperature=2, views__flip=False)
    make_run(tmp_path / "runs", "ce")
    view.refresh()
    infos = {info.name: info for info in columns(tmp_path / "view").hparam_infos}
    assert list(infos) == ["method.name", "seeds.0", "views.flip", "method.temperature"]
    assert all(info.differs for info in infos.values())
    assert infos["method.name"].display_name == "method"
    assert list(infos["method.name"].domain_discrete) == ["ce", "kd"]
    assert infos["views.flip"].type == api_pb2.DATA_TYPE_BOOL
    assert list(infos["views.flip"].domain_discrete) == [False, True]
    interval = infos["method.temperature"].domain_interval
    assert (interval.min_value, interval.max_value) == (2, 4)


def test_metrics_of_the_table_are_tags_that_runs_write(tmp_path: Path, view: EventsView) -> None:
    view.refresh()
    run = tmp_path / "view" / "kd"
    shown = {info.name.tag for info in columns(tmp_path / "view").metric_infos}
    written = {tag for tag in shown if summaries(run.iterdir(), tag)}
    assert written == {"accuracy/validation", "result/validation_accuracy", "result/seconds"}
    assert shown - written == {"result/test_accuracy", "result/parameters"}  # not measured here


def test_a_row_has_all_settings_and_is_read_first(tmp_path: Path, view: EventsView) -> None:
    view.refresh()
    rows = summaries((tmp_path / "view" / "kd").iterdir(), metadata.SESSION_START_INFO_TAG)
    assert len(rows) == 2  # ours, and the run's own, which other viewers read
    row, own = (
        metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
        for value in rows
    )
    assert (row.group_name, own.group_name) == ("kd", "")
    assert row.hparams["method.temperature"].number_value == 4
    assert row.hparams["views.flip"].bool_value is True


def test_charts_follow_what_runs_report(tmp_path: Path, view: EventsView) -> None:
    view.refresh()
    before = charts(tmp_path / "view")
    assert list(before) == ["Accuracy", "Losses, mean of each epoch"]
    more = ROW | {"teacher_weight/a.b": 0.5, "teacher_weight_entropy": 0.1, "wait/signals_s": 0.0}
    more["feature_weight/a"] = 0.5
    make_run(tmp_path / "runs", "ebkd", row=more)
    view.refresh()
    after = charts(tmp_path / "view")
    assert set(after) == {*before, "Time", "Teachers' weights", "Teachers' weights for features"}
    patterns = [pattern for category in after.values() for pattern in category]
    for tag in more:
        assert sum(re.match(pattern, tag) is not None for pattern in patterns) == 1


@pytest.mark.parametrize("name", ["config.yaml", "metrics.parquet"])
def test_a_damaged_run_is_named(name: str, tmp_path: Path, view: EventsView) -> None:
    file = tmp_path / "runs" / "tiny" / "kd-d1" / "seed-0" / name
    file.write_text("[" * 20)
    with pytest.raises(ConfigError, match=rf"runs: '{file}' cannot be read: .*; copy it once more"):
        view.refresh()


def test_what_has_not_changed_is_not_written_again(tmp_path: Path, view: EventsView) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.lstat().st_ctime_ns for path in (tmp_path / "view").rglob("*")}

    view.refresh()
    before = stamps()
    view.refresh()
    assert stamps() == before
