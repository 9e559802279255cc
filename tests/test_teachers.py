"""Teachers, and their actors: right answers, each recorded once, whoever does the work."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.config import Experiment
from distill.datasets import load_data
from distill.engine import evaluate
from distill.signals import SignalSpec
from orchestrator.fleet import Fleet, Placement
from orchestrator.recording import Recorder, RecordingReport, Serving
from orchestrator.teachers import Teacher, input_plan
from tests.helpers import (
    CPU,
    asked_for,
    files_below,
    prepare,
    record_here,
    tiny,
    two_teachers,
    write_noise,
)

LOGITS = SignalSpec.parse("logits")
SIGNALS = ("logits", "stage3@gap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def experiment(folder: Path) -> Experiment:
    """Two parts a pass."""
    noise = write_noise(folder / "noise.npz", num_train=4200)
    return two_teachers(noise, folder, {"data.validation": 0, "signals.passes": 2})


class Notes:
    """Remembers what a recording was told to show."""

    def __init__(self) -> None:
        self.wanted: list[int] = []
        self.images: list[int] = []
        self.busy: list[int] = []

    def on_wait(self, holder: str) -> None:
        raise AssertionError(f"nobody else records, and yet {holder} does")

    def on_start(self, report: RecordingReport) -> None:
        self.wanted.append(report.images_wanted)

    def on_stall(self, teachers: Sequence[str]) -> None:
        raise AssertionError(f"no room for {teachers}")

    def on_restart(self, teacher: str, process: str) -> None:
        raise AssertionError(f"{process} of {teacher} died")

    def on_part(self, report: RecordingReport) -> None:
        self.images.append(report.images)
        self.busy.append(report.busy)


def recorded_at(root: Path, experiment: Experiment, *, actors: int) -> list[Serving]:
    """The experiment's teachers, with a store and a number of actors of their own."""
    servings = [asked_for(teacher.serving, *SIGNALS) for teacher in prepare(experiment)]
    return [
        replace(
            serving,
            recording=replace(serving.recording, root=str(root)),
            placement=replace(serving.placement, num_actors=actors),
        )
        for serving in servings
    ]


def record(
    servings: list[Serving], passes: Sequence[int] = (0, 1)
) -> tuple[RecordingReport, Notes]:
    notes = Notes()
    with Fleet() as fleet:
        return Recorder(servings, fleet, passes, notes).run(), notes


def test_an_answer_does_not_depend_on_the_size_of_forward_passes(experiment: Experiment) -> None:
    recipe, plan = prepare(experiment)[1].serving.recipe, input_plan(experiment)
    images = Teacher(recipe, plan).images(np.arange(50), np.arange(50) % 18)
    specs = (LOGITS, SignalSpec.parse("stage2@attention"))
    whole, pieces = (
        Teacher(replace(recipe, batch_size=size), plan).answer(images, specs) for size in (64, 7)
    )
    for spec in specs:
        assert len(whole[spec]) == 50
        np.testing.assert_allclose(pieces[spec], whole[spec], rtol=1e-4, atol=1e-5)


def test_a_teachers_accuracy_is_that_of_its_network(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    test = load_data(experiment.data).test
    for teacher in prepare(experiment):
        model = teacher.serving.recipe.build()
        found = Teacher(teacher.serving.recipe, input_plan(experiment)).test_accuracy()
        assert found == evaluate(model, test, device=CPU)
        assert teacher.parameters == sum(p.numel() for p in model.parameters())


def test_bfloat16_teachers_stay_close_but_differ(fashion: Path, tmp_path: Path) -> None:
    plan = input_plan(two_teachers(fashion, tmp_path))
    answers = []
    for precision in ("float32", "bfloat16"):
        experiment = two_teachers(fashion, tmp_path, {"signals.precision": precision})
        teacher = Teacher(prepare(experiment)[0].serving.recipe, plan)
        images = teacher.images(np.arange(40), np.zeros(40, np.int64))
        answers.append(teacher.answer(images, (LOGITS,))[LOGITS])
    full, half = answers
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_a_teacher_is_built_for_inference(experiment: Experiment) -> None:
    model = prepare(experiment)[0].serving.recipe.build()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be_kept_is_an_error_that_names_teacher_and_samples(
    fashion: Path, tmp_path: Path
) -> None:
    experiment = two_teachers(fashion, tmp_path)
    serving = prepare(experiment)[0].serving
    recipe = replace(serving.recipe, std=(1e-12,))  # logits beyond float16's largest number
    with pytest.raises(ValueError, match=r"teacher 'a', pass 0, samples from 0: .*logits"):
        record_here(replace(serving, recipe=recipe), input_plan(experiment), [0])


def test_other_data_make_another_identity(fashion: Path, tmp_path: Path) -> None:
    keys = [
        prepare(two_teachers(fashion, tmp_path, change))[0].serving.recording.key
        for change in (
            {},
            {"data.split_seed": 1},
            {"views.padding": 2},
            {"signals.plan_seed": 1},
            {"signals.precision": "bfloat16"},
            {"teachers.0.normalization": {"mean": [0.1], "std": [0.2]}},
            {"teachers.0.checkpoint": str(tmp_path / "other.safetensors"), "teachers.0.name": "c"},
        )
    ]
    # The last has the same weights in another file and under another name: the same teacher.
    assert len(set(keys)) == 6
    assert keys[-1] == keys[0]


@pytest.mark.ray
def test_actors_record_once_and_the_same_bytes_whatever_their_number(
    experiment: Experiment, tmp_path: Path
) -> None:
    one, two, none = tmp_path / "one", tmp_path / "two", tmp_path / "none"
    servings = recorded_at(one, experiment, actors=1)
    report, notes = record(servings)
    assert report.images == notes.wanted[0] == notes.images[-1] == 2 * 2 * 4200
    assert sorted(notes.images) == notes.images
    # Without actors, and with two for each teacher: byte for byte the same.
    for serving in recorded_at(none, experiment, actors=1):
        assert record_here(serving, input_plan(experiment), [0, 1]) == 4
    record(recorded_at(two, experiment, actors=2))
    parts = files_below(one, "*.arrow")
    assert len(parts) == 2 * 2 * 2 * 2  # teachers, signals, passes, parts
    assert parts == files_below(none, "*.arrow") == files_below(two, "*.arrow")

    again, notes = record(servings)
    assert (again.images, again.parts_found, notes.wanted) == (0, 8, [0])

    lost = sorted(one.rglob("*.arrow"))[5]
    untouched = {path: path.stat().st_mtime_ns for path in one.rglob("*.arrow") if path != lost}
    lost.unlink()
    mended, _ = record(servings)
    assert mended.images in (4096, 4200 - 4096)
    assert files_below(one, "*.arrow") == parts
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched


@pytest.mark.ray
def test_few_parts_are_shared_out_evenly(experiment: Experiment, tmp_path: Path) -> None:
    servings = recorded_at(tmp_path, experiment, actors=2)
    _, notes = record(servings, passes=[0])
    assert notes.busy == [3, 2, 1, 0]  # of two teachers' actors, with a part each


@pytest.mark.ray
def test_an_actor_that_gets_no_part_makes_place_for_another_teacher(
    fashion: Path, tmp_path: Path
) -> None:
    """Two actors of a CPU and one part; then one of two CPUs, on a machine of two."""
    experiment = two_teachers(fashion, tmp_path)
    few, wide = (
        replace(teacher.serving, placement=placement)
        for teacher, placement in zip(
            prepare(experiment), (Placement(2, 1, 0), Placement(1, 2, 0)), strict=True
        )
    )
    with Fleet() as fleet:
        fleet.actors(few)
        recorder = Recorder([few, wide], fleet, [0], Notes())
        recording = threading.Thread(target=recorder.run)
        recording.start()
        recording.join(60)
        recorder.finish()
        recording.join()
        assert recorder.report.images == 2 * 360
        assert fleet.held() == []


def test_teachers_are_loaded_by_name_and_errors_say_whose(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"teacher 'b': checkpoint .*b\.safetensors"):
        prepare(experiment)
    assert prepare(tiny(fashion)) == ()
