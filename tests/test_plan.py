"""``plan``: what is left to do is what ``train`` finds, and nothing is done or left behind."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml

from distill import run
from distill.config import Experiment
from distill.loading import ConfigError
from orchestrator.cluster_spec import ClusterSpec
from orchestrator.display import Display
from orchestrator.machine_probe import process_seconds, store_speed
from orchestrator.pipeline import run_experiment
from orchestrator.plan_report import as_json
from orchestrator.planning import Agenda, agenda
from orchestrator.plans import forecast_of, plan_experiment
from orchestrator.run_checkpoints import PROGRESS, write_checkpoint
from orchestrator.runs import RunFolder
from orchestrator.speed_probe import measure
from orchestrator.teachers import input_plan
from tests.helpers import files_below, prepare, record_here, tiny, two_teachers

QUICK = 0.05  # seconds of a probe: the least of everything


def missing_of(found: Agenda) -> dict[str, int]:
    return {record.teacher: len(record.missing) for record in found.records}


def save(experiment: Experiment, file: Path) -> str:
    file.write_text(yaml.safe_dump(experiment.as_dict()))
    return str(file)


def test_before_anything_everything_is_left(fashion: Path, tmp_path: Path) -> None:
    """Two teachers, three passes of one part of 360 samples, 20 bytes of logits each."""
    found = agenda(two_teachers(fashion, tmp_path, {"baselines": ["ce"], "seeds": [0, 1]}))
    assert [job.title for job in found.todo] == [
        f"{m} seed {s}" for m in ("ce", "kd") for s in (0, 1)
    ]
    assert missing_of(found) == {"a": 3, "b": 3}
    assert {record.missing_bytes for record in found.records} == {3 * 360 * 20}
    assert found.unmeasured == ("a", "b")
    assert not found.trainings
    assert not found.is_done


def test_recorded_parts_are_found(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    first = prepare(experiment)[0].serving
    record_here(first, input_plan(experiment), [0, 2])
    found = agenda(experiment)
    assert missing_of(found) == {"a": 1, "b": 3}
    by_name = {record.teacher: record for record in found.records}
    assert by_name["a"].missing_passes == (1,)
    assert by_name["a"].found_bytes == 2 * 360 * 20
    assert by_name["a"].images == 360


def test_passes_that_no_run_needs_any_more_are_not_asked_for(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    run_folder = RunFolder(agenda(experiment).jobs[0].folder)
    state = dict.fromkeys(PROGRESS, 0) | {"start_epoch": 2, "learner": {}}
    write_checkpoint(run_folder.checkpoint("last"), state)
    assert missing_of(agenda(experiment)) == {"a": 1, "b": 1}


@pytest.mark.ray
def test_a_finished_experiment_has_nothing_left(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the runs that ``train`` has made are the ones that the plan named."""
    experiment = two_teachers(fashion, tmp_path)
    planned = [job.folder for job in agenda(experiment).todo]
    with Display(io.StringIO()) as display:
        outcome = run_experiment(experiment, display)
    assert [finished.path for finished in outcome.runs] == planned
    found = agenda(experiment)
    assert found.is_done
    assert run.main(["plan", save(experiment, tmp_path / "experiment.yaml")]) == 0
    assert "total            0.0 s\n" in capsys.readouterr().out  # and nothing takes most of it
    assert found.todo == ()
    assert found.records == ()


def test_a_teacher_that_is_not_trained_is_trained_first(fashion: Path, tmp_path: Path) -> None:
    training = {"schedule": {"epochs": 2, "batch_size": 32}}
    experiment = tiny(
        fashion,
        {
            "data.cache_dir": str(tmp_path / "cache"),
            "teachers": [{"arch": "resnet8", "cpus": 0.5, "training": training}],
            "method": "kd",
            "output.root": str(tmp_path / "runs"),
        },
    )
    terms = plan_experiment(experiment, seconds=QUICK)
    assert [job.title for job in terms.agenda.trainings] == ["teacher resnet8"]
    assert missing_of(terms.agenda) == {"resnet8": 2}
    found = forecast_of(terms)
    assert found.load.before_s["training teachers"] > 0
    assert found.estimate.total_s > sum(found.load.before_s.values())


def test_a_plan_leaves_nothing_behind(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither files nor threads nor a Ray, for a method that reads maps."""
    monkeypatch.setattr(ray, "init", None)
    experiment = two_teachers(fashion, tmp_path, {"method": "fitnet", "workers.cpus": 1})
    before = files_below(tmp_path, "*")
    torch.set_num_threads(1)
    forecast_of(plan_experiment(experiment, seconds=QUICK))
    assert files_below(tmp_path, "*") == before
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("source", ["cached", "served", "local"])
@pytest.mark.parametrize("method", ["ce", "kd", "mmkd", "camkd"])
def test_every_source_and_learner_is_measured(
    fashion: Path, tmp_path: Path, source: str, method: str
) -> None:
    changes = {"method": method, "signals.source": source}
    found = forecast_of(plan_experiment(two_teachers(fashion, tmp_path, changes), seconds=QUICK))
    assert bool(found.load.teachers) == (source == "cached" and method != "ce")
    assert all(load.images_per_s > 0 for load in found.load.runs)
    assert math.isfinite(found.estimate.total_s)


def test_served_teachers_bound_the_student(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path, {"signals.source": "served"})
    terms = plan_experiment(experiment, seconds=QUICK)
    rate = forecast_of(terms).load.runs[0].images_per_s
    assert rate <= min(terms.teachers.values())


def test_a_slower_teacher_is_measured_as_slower(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    servings = [teacher.serving for teacher in prepare(experiment)]
    speeds = measure(servings, [], store=None, seconds=0.3).teachers
    assert speeds["a"] > speeds["b"] > 0  # a cnn_xs, a resnet8


def test_parts_are_written_and_read_at_some_speed(tmp_path: Path) -> None:
    speed = store_speed(tmp_path)
    assert 0 < speed.part_s < 5
    assert min(speed.write_bytes_s, speed.verify_bytes_s) > 1e6


def test_a_process_starts_wherever_the_plan_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert process_seconds() > 0.1


def figures(**nodes: Any) -> dict[str, Any]:
    """A cluster's description with all figures of ``two_teachers`` given."""
    return {
        "nodes": {"count": 2, "cpus": 4, "network_gbit_s": 10, "disk_gb": 10, "disk_gb_s": 1}
        | nodes,
        "storage": {"read_gb_s": 1, "write_gb_s": 1},
        "figures": {"teachers": {"a": 360, "b": 180}, "students": {"kd": 352}, "start_s": 1},
    }


def tell(tmp_path: Path, experiment: Experiment, spec: Mapping[str, Any], *more: str) -> int:
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(dict(spec)))
    file = save(experiment, tmp_path / "experiment.yaml")
    return run.main(["plan", file, "--cluster", str(tmp_path / "cluster.yaml"), *more])


def test_given_figures_are_taken_and_nothing_is_measured(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path, {"workers.count": 1})
    terms = plan_experiment(experiment, ClusterSpec.model_validate(figures()))
    assert (terms.speeds.teachers, terms.speeds.students) == ({}, {})
    assert terms.teachers == {"a": 360, "b": 180}


def test_numbers_are_written(fashion: Path, tmp_path: Path) -> None:
    """Passes of 360 images: 2 s for ``b``, and a student beside it of 352 images an epoch, 1 s."""
    file, more = tmp_path / "plan.json", ("--trials", "4", "--json")
    experiment = two_teachers(fashion, tmp_path, {"workers.count": 1})
    assert tell(tmp_path, experiment, figures(), *more, str(file)) == 0
    numbers = json.loads(file.read_text())["2"]
    assert numbers["recording_s"] == pytest.approx(6.0, rel=0.01)
    assert numbers["training_s"] == pytest.approx(6 + 1, rel=0.2)
    assert numbers["bytes_to_write"] == 2 * 3 * 360 * 20
    assert numbers["sweep_s"] > numbers["recording_s"]


def test_a_cluster_that_does_not_hold_the_job_says_what_would(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = two_teachers(fashion, tmp_path, {"workers.count": 9})
    assert tell(tmp_path, experiment, figures()) == 1
    assert "does not fit: students: 9 workers" in capsys.readouterr().out
    assert tell(tmp_path, experiment, figures(), "--nodes", "2", "3") == 1
    shown = capsys.readouterr().out
    assert "2 nodes do not fit: students" in shown
    assert "3 nodes do not fit" not in shown


def test_speeds_for_gpus_that_are_not_here_must_be_given(
    fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    experiment = two_teachers(fashion, tmp_path, {"workers": {"count": 1, "gpus": 1}})
    spec = figures(gpus=1)
    assert tell(tmp_path, experiment, spec) == 0
    del spec["figures"]["students"]
    assert tell(tmp_path, experiment, spec) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give an EXPERIMENT, or --cluster"),
        (["demo", "--nodes", "3"], "--nodes: goes with --cluster"),
        (["demo", "--trials", "0"], "--trials: 0 is too few"),
        (["demo", "--seconds", "0"], "--seconds: 0 is no time"),
        (["--cluster", "nowhere.yaml"], "no file 'nowhere.yaml'"),
        (["demo", "-s", "schedule.epochs=0"], "schedule.epochs"),
    ],
)
def test_a_mistake_is_told_at_once(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["plan", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_demo_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tables and totals; how near it comes is what ``benchmarks.plan`` measures."""
    settings = [f"output.root={tmp_path}", f"signals.root={tmp_path / 'signals'}"]
    options = [part for setting in settings for part in ("-s", setting)]
    assert run.main(["plan", "demo", *options, "--seconds", "1"]) == 0
    shown = capsys.readouterr().out
    for expected in ("resnet8", "24 of 24", "kd seed 1", "to train", "total", "most of it"):
        assert expected in shown


def test_a_window_that_cannot_be_is_told(fashion: Path, tmp_path: Path) -> None:
    too_many = (os.cpu_count() or 1) + 1
    changes = {"signals.retain": "window", "workers.count": too_many}
    found = forecast_of(plan_experiment(two_teachers(fashion, tmp_path, changes), seconds=QUICK))
    assert "'window' needs teachers and students side by side" in found.misfits[0]
    assert as_json(found)["misfits"] == list(found.misfits)


def test_served_teachers_that_have_no_room_beside_students_are_told(
    fashion: Path, tmp_path: Path
) -> None:
    """Teachers of half a CPU each, and one worker that takes a node."""
    changes = {"signals.source": "served", "workers": {"count": 1, "cpus": 4}}
    experiment = two_teachers(fashion, tmp_path, changes)
    for count, misfits in ((1, 1), (2, 0)):
        spec = ClusterSpec.model_validate(figures(count=count))
        assert len(forecast_of(plan_experiment(experiment, spec)).misfits) == misfits
    spec = ClusterSpec.model_validate(figures(count=1))
    (line,) = forecast_of(plan_experiment(experiment, spec)).misfits
    assert "'served' needs teachers and students side by side; a cluster of 5 CPUs and 0" in line


def test_elastic_students_are_planned_with_as_many_workers_as_have_room(
    fashion: Path, tmp_path: Path
) -> None:
    """Two nodes of 4 CPUs, and teachers that take one of them together."""
    for bounds, count in (((1, 4), 4), ((1, 99), 7), ((8, 99), 8), ((9, 99), 9)):
        workers = {"min": bounds[0], "max": bounds[1]}
        changes = {"workers": workers, "schedule.batch_size": 99}
        experiment = two_teachers(fashion, tmp_path, changes)
        found = forecast_of(plan_experiment(experiment, ClusterSpec.model_validate(figures())))
        assert found.load.workers.count == count
        assert found.load.side_by_side == (count < 8)
        assert bool(found.misfits) == (count > 8)


def test_a_plan_of_what_cannot_be_read_is_refused(fashion: Path, tmp_path: Path) -> None:
    experiment = two_teachers(fashion, tmp_path)
    wrong = experiment.model_copy(
        update={"signals": experiment.signals.model_copy(update={"codecs": {"logits": "top10"}})}
    )
    with pytest.raises(ConfigError, match="codec top10"):
        agenda(wrong)
