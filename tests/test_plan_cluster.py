"""A cluster on paper: its file, what fits it, how actors are shared out, what docs say of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.loading import ConfigError
from orchestrator.cluster_spec import ClusterSpec, load_spec
from orchestrator.forecast import Forecast
from orchestrator.paper_jobs import forecast_job, share_out
from orchestrator.plan_report import duration, scale_table, size
from orchestrator.simulation import simulate

DOCS = Path(__file__).parent.parent / "docs"
SHIPPED = {name: DOCS / "scale" / f"{name}.yaml" for name in ("imagenet22k", "imagenet22k_whole")}
SIZES = (8, 16, 32, 64, 128)  # nodes of 8 GPUs
TRIALS = 32


def spec_of(changes: Mapping[str, Any] | None = None) -> ClusterSpec:
    """Two nodes of 4 GPUs, two teachers, a student; ``changes`` by dotted path."""
    raw: dict[str, Any] = {
        "nodes": {"count": 2, "cpus": 16, "gpus": 4, "network_gbit_s": 10, "disk_gb": 100}
        | {"disk_gb_s": 1, "price_per_hour": 10},
        "storage": {"read_gb_s": 1, "write_gb_s": 1},
        "figures": {"teachers": {"a": 100, "b": 300}, "students": {"kd": 400}, "start_s": 0},
        "job": {"samples": 40960, "image_bytes": 1000, "epochs": 6, "passes": 3}
        | {"batch_size": 256, "method": "kd", "parameters": 1000}
        | {"teachers": [{"name": n, "signals": {"logits": {"shape": [100]}}} for n in "ab"]},
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        node: Any = raw
        for key in parents:
            node = node[int(key) if key.isdigit() else key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return ClusterSpec.model_validate(raw)


def plan(changes: Mapping[str, Any] | None = None) -> Forecast:
    spec = spec_of(changes)
    assert spec.job is not None
    return forecast_job(spec, spec.job)


def test_a_job_takes_what_its_figures_say() -> None:
    """8 GPUs: 2 for the quick teacher, 6 for the slow one; then 8 workers for the student."""
    found = plan()
    assert {group.name: group.count for group in found.load.actors} == {"a": 6, "b": 2}
    recording = found.estimate.recording_s
    assert recording == pytest.approx(3 * 40960 / (6 * 100), rel=0.02)
    assert found.estimate.training_s == pytest.approx(6 * 40960 / (8 * 400), rel=0.02)
    assert found.cost == pytest.approx(found.estimate.total_s / 3600 * 20)
    assert found.load.store_bytes == 2 * 3 * 40960 * 200


def test_actors_are_shared_out_so_that_the_last_one_ends_first() -> None:
    """No other division of 12 GPUs among three teachers ends earlier."""
    seconds, takes = {"a": 5.0, "b": 2.0, "c": 1.0}, dict.fromkeys("abc", 1.0)
    counts = share_out(seconds, takes, capacity=12)
    assert sum(counts.values()) == 12
    divisions = (d for d in itertools.product(range(1, 11), repeat=3) if sum(d) == 12)
    best = min(max(s / n for s, n in zip((5, 2, 1), d, strict=True)) for d in divisions)
    assert max(seconds[n] / counts[n] for n in counts) == pytest.approx(best)


def test_a_larger_cluster_is_never_slower_and_a_student_grows_no_further_than_its_batch() -> None:
    spec = spec_of()
    assert spec.job is not None
    found = [forecast_job(spec.of(count), spec.job) for count in (1, 2, 4, 8)]
    times = [one.estimate.total_s for one in found]
    assert times == sorted(times, reverse=True)
    assert [one.load.workers.count for one in found] == [4, 8, 8, 8]  # 256 images, 32 each


def test_speed_and_a_steps_own_cost_count() -> None:
    base = plan().estimate
    assert plan({"nodes.speed": 2}).estimate.total_s == pytest.approx(base.total_s / 2, rel=0.02)
    slower = plan({"figures.step_s": 0.08}).estimate  # as long as the 32 images take
    assert slower.training_s == pytest.approx(2 * base.training_s, rel=0.02)


def test_trials_run_as_many_at_a_time_as_fit() -> None:
    """Of workers of 4 GPUs, two trials fit 8: the third and fourth wait."""
    found = plan({"job.workers": 4})
    assert found.room == 2
    two, three, four = (found.sweep_s(count) for count in (2, 3, 4))
    assert two < three == four


def test_a_sweep_shares_the_place_of_record() -> None:
    slow = {"job.workers": 4, "storage.read_gb_s": 1e-4}
    alone, both = (plan(slow).sweep_s(count) for count in (1, 2))
    assert both - alone == pytest.approx(plan(slow).estimate.training_s, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"job.teachers.0.gpus": 8},
            "a: an actor of 8 GPUs does not fit a node of 4; nodes with 8",
        ),
        ({"job.worker_cpus": 99}, "students: a worker of 99 CPUs does not fit a node of 16"),
        ({"job.workers": 20}, "the cluster holds 8; 8 workers would fit, or 5 nodes"),
        ({"storage.capacity_gb": 0.02}, "3 passes of records, 0 GB; passes: 1 fit"),
        ({"storage.capacity_gb": 0.001}, "not one pass fits; a codec such as top10"),
        ({"storage.kind": "mirrored", "nodes.disk_gb": 0.001}, "disks of 1 GB would"),
    ],
)
def test_what_does_not_fit_says_what_would(changes: Mapping[str, Any], says: str) -> None:
    assert plan().misfits == ()
    assert says in "\n".join(plan(changes).misfits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes.count": 0}, "nodes.count: .*greater than 0"),
        ({"nodes.disk_gb": None}, "nodes.disk_gb: is missing"),
        ({"nodes.ram": 3}, "nodes.ram: is not known; known: count, cpus"),
        ({"figures.teachers": {"a": 1}}, "no images/s of 'b'"),
        ({"figures.students": {}}, "no images/s of 'kd'"),
        ({"job.passes": 7}, "passes: 7 for 6 epochs"),
        ({"job.teachers.1.name": "a"}, "repeats a name"),
        ({"job.teachers.0.signals": {"logits": {"shape": [3], "codec": "top10"}}}, "top10"),
    ],
)
def test_a_mistake_in_the_file_names_its_field(
    tmp_path: Path, changes: Mapping[str, Any], says: str
) -> None:
    raw = yaml.safe_load(yaml.safe_dump(spec_of().model_dump(mode="json")))
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = raw
        for key in parents:
            node = node[int(key) if key.isdigit() else key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=says):
        load_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize("text", ["[1]", "a: b: c", "nodes: 3"])
def test_a_file_that_is_no_description_is_a_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"spec.yaml"):
        load_spec(tmp_path / "spec.yaml")


def of_docs(name: str) -> list[tuple[int, Forecast]]:
    spec = load_spec(SHIPPED[name])
    assert spec.job is not None
    return [(count, forecast_job(spec.of(count), spec.job)) for count in SIZES]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_tables_in_the_docs_are_what_the_command_prints(name: str) -> None:
    table = scale_table(of_docs(name), num_trials=TRIALS).as_markdown()
    assert table.partition("\n\n")[0] in (DOCS / "scale.md").read_text()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_simulation_agrees_with_the_tables_in_the_docs(name: str) -> None:
    """With parts twenty times as large, to be quick: still far fewer bytes than an actor's."""
    found = dict(of_docs(name))
    assert found.keys() == set(SIZES)
    for count, one in found.items():
        teachers = tuple(replace(t, parts=t.parts // 20) for t in one.load.teachers)
        played = simulate(replace(one.load, teachers=teachers), one.site, jitter=0.1)
        alone = one.estimate.total_s - one.estimate.start_s
        assert alone == pytest.approx(played.end_s, rel=0.1), count


def test_durations_and_sizes_are_what_a_person_would_say() -> None:
    said = [duration(seconds) for seconds in (4.24, 42, 190, 4000, 10**6)]
    assert said == ["4.2 s", "42 s", "3 min 10 s", "1.1 h", "11.6 d"]
    assert [size(n) for n in (12, 2.07e12, 2.16e17)] == ["12 B", "2.07 TB", "216 PB"]
