"""Live teachers, recording beside students, and a bounded store: the same student every way."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.datasets import load_data
from distill.loading import ConfigError
from distill.parallel import ALONE
from orchestrator.display import Display
from orchestrator.fleet import Fleet
from orchestrator.pipeline import run_experiment
from orchestrator.run_student import batch_plan
from orchestrator.sources import CachedSource, ServedSource
from orchestrator.teachers import input_plan
from tests.helpers import prepare, record_here, two_teachers

pytestmark = pytest.mark.ray
SOURCES = ("cached", "served", "local")


def curve(file: Path, folder: Path, changes: dict[str, Any]) -> tuple[np.ndarray, str]:
    """A run's loss by epoch, and all that was shown."""
    shown = io.StringIO()
    with Display(shown) as display:
        outcome = run_experiment(two_teachers(file, folder, changes), display)
    (run,) = outcome.runs
    return run.metrics()["loss/total"].to_numpy(), shown.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "tolerance"), [("float32", 1e-5), ("float16", 2e-2)])
def test_three_sources_give_one_loss_curve(
    fashion: Path, tmp_path: Path, codec: str, tolerance: float
) -> None:
    curves = {
        source: curve(fashion, tmp_path, {"signals.source": source, "signals.codec": codec})[0]
        for source in SOURCES
    }
    assert len(curves["cached"]) == 3
    for source in SOURCES:
        np.testing.assert_allclose(curves[source], curves["cached"], rtol=tolerance)


def test_a_served_teacher_that_is_killed_is_replaced_and_asked_again(
    fashion: Path, tmp_path: Path
) -> None:
    experiment = two_teachers(fashion, tmp_path)
    teachers = prepare(experiment)
    recordings = [teacher.serving.recording for teacher in teachers]
    for teacher in teachers:
        record_here(teacher.serving, input_plan(experiment), range(1))
    batches = list(batch_plan(experiment, load_data(experiment.data), seed=0).batches(0, ALONE))
    with Fleet() as fleet:
        actors = {t.serving.recording.key: fleet.actors(t.serving) for t in teachers}
        served, cached = ServedSource(recordings, actors), CachedSource(recordings)
        for position, batch in enumerate(batches):
            served.prefetch(batch)
            if position == 2:
                _kill_a_teacher()
            ours, theirs = served.signals(batch), cached.signals(batch)
            np.testing.assert_allclose(ours.logits(), theirs.logits(), rtol=1e-2, atol=1e-2)
    assert served.seconds_waited > 0


def _kill_a_teacher() -> None:
    """End, with SIGKILL, one teacher's process of this test's own Ray."""
    mine = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_our_teacher(entry)
    ]
    os.kill(mine[0], signal.SIGKILL)


def _is_our_teacher(process: Path) -> bool:
    try:
        title = (process / "cmdline").read_bytes()
        environment = (process / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return False
    cache = f"TUTELAGE_CACHE={os.environ['TUTELAGE_CACHE']}\0".encode()
    return title.startswith(b"ray::TeacherActor") and cache in environment


def test_served_teachers_that_do_not_fit_are_a_mistake(fashion: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"signals\.source: .* side by side; lower teachers"):
        curve(fashion, tmp_path, {"signals.source": "served", "teachers[0].cpus": 2})


@pytest.mark.slow
def test_a_window_bounds_the_store_and_changes_nothing(fashion: Path, tmp_path: Path) -> None:
    changes = {"signals.passes": 6, "schedule.epochs": 6}
    whole, _ = curve(fashion, tmp_path / "all", changes)
    bounded = changes | {"signals.retain": "window", "signals.ahead": 1}
    most: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most.append(max((len(list(c.glob("pass-*"))) for c in columns()), default=0))

    def columns() -> list[Path]:
        return list((tmp_path / "window" / "signals").glob("*/logits.float16"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    (tmp_path / "window").mkdir()
    for name in ("a", "b"):  # the same teachers
        weights = tmp_path / "all" / f"{name}.safetensors"
        (tmp_path / "window" / weights.name).write_bytes(weights.read_bytes())
    windowed, _ = curve(fashion, tmp_path / "window", bounded)
    done.set()
    watcher.join()
    np.testing.assert_array_equal(whole, windowed)
    assert 1 <= max(most) <= 4  # the current pass, one ahead, and what is just being left
    assert [list(column.glob("pass-*/*.arrow")) for column in columns()] == [[], []]


def test_recording_beside_students_is_followed_in_tensorboard(
    fashion: Path, tmp_path: Path
) -> None:
    began = time.time()
    _, shown = curve(fashion, tmp_path, {})
    assert "recording first" not in shown  # teachers of half a CPU fit beside this process
    events = EventAccumulator(str(tmp_path / "runs" / "tiny" / "recording")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"recording/images_per_s/a", "recording/actors_busy", "recording/parts_queued"} <= tags
    assert all(e.value > 0 for e in events.Scalars("recording/images_per_s/b"))
    assert events.Scalars("recording/actors_busy")[0].wall_time >= began


def test_teachers_that_do_not_fit_side_by_side_take_turns(fashion: Path, tmp_path: Path) -> None:
    """Three actors of 1.5 CPUs on a machine of two: one at a time is asked, and records."""
    losses, shown = curve(
        fashion,
        tmp_path,
        {"teachers[0].cpus": 1.5, "teachers[0].actors": 2, "teachers[1].cpus": 1.5},
    )
    assert len(losses) == 3
    assert "recording first, then training" in shown


@pytest.mark.parametrize("changes", [{"signals.source": "local"}, {"method": "ce"}])
def test_actors_that_measured_teachers_leave_students_the_machine(
    fashion: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    wide = {"workers": {"count": 1, "cpus": 2}, "schedule.epochs": 1}
    losses, _ = curve(fashion, tmp_path, {**wide, **changes})
    assert len(losses) == 1
