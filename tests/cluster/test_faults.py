"""Hosts that are lost in the middle: the job ends by itself, with the same records and accuracy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.cluster.cluster import NUM_HOSTS, Cluster
from tests.cluster.jobs import NUM_PARTS, TEACHER, WORKER, Job, run_to_its_end, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def num_parts(folder: Path) -> int:
    return len(list(folder.rglob("*.arrow")))


def is_training(folder: Path) -> bool:
    """Whether an epoch is done, and another one is to come."""
    return bool(list(folder.rglob("last.pt")))


def a_host_with(process: str, cluster: Cluster) -> int:
    """One that runs such a process, and is not the head."""
    return next(number for number in cluster.hosts_with(process) if number)


def test_recording_goes_on_without_a_host_that_cannot_be_reached(
    whole: Cluster, undisturbed: Job
) -> None:
    folder = whole.storage / "cut-recording"
    with whole.submitting("train", "demo", *settings(folder)) as run:
        run.until(lambda: num_parts(folder) and len(whole.hosts_with(TEACHER)) >= 2)
        whole.hosts.cut(a_host_with(TEACHER, whole))
        assert num_parts(folder) < NUM_PARTS
        job = Job(folder, run.succeed())
    assert job.parts == undisturbed.parts
    assert job.result["test_accuracy"] == undisturbed.result["test_accuracy"]


def test_training_goes_on_without_a_host_that_cannot_be_reached(
    whole: Cluster, undisturbed: Job
) -> None:
    folder = whole.storage / "cut-training"
    before = undisturbed.parts
    asked = settings(folder, records=undisturbed.folder)
    with whole.submitting("train", "demo", *asked) as run:
        run.until(lambda: is_training(folder))
        whole.hosts.cut(a_host_with(WORKER, whole))
        assert not list(folder.rglob("result.json"))
        job = Job(folder, run.succeed())
    assert job.result["test_accuracy"] == undisturbed.result["test_accuracy"]
    assert undisturbed.parts == before


def test_training_waits_for_a_host_whose_raylet_was_killed(
    whole: Cluster, undisturbed: Job
) -> None:
    before = undisturbed.parts
    # Three workers add in another order than two, so they are compared with three.
    asked = partial(settings, num_workers=NUM_HOSTS, records=undisturbed.folder)
    calm, folder = whole.storage / "three-workers", whole.storage / "killed-raylet"
    reference = run_to_its_end(whole, calm, asked(calm))
    with whole.submitting("train", "demo", *asked(folder)) as run:
        run.until(lambda: is_training(folder))
        whole.hosts.kill(1, "raylet")
        assert not list(folder.rglob("result.json"))
        job = Job(folder, run.succeed())
    assert "wait for nodes; those that are alive hold 2" in job.shown, job.shown
    assert job.result["test_accuracy"] == reference.result["test_accuracy"]
    assert undisturbed.parts == before


def test_the_same_command_goes_on_after_the_heads_restart(whole: Cluster, undisturbed: Job) -> None:
    folder = whole.storage / "head"
    with whole.submitting("train", "demo", *settings(folder)) as run:
        run.until(lambda: num_parts(folder) >= 2)
        whole.hosts.kill(0, "gcs_server", "raylet")
        assert run.end() != 0
    assert num_parts(folder) < NUM_PARTS
    # It starts what is not running, and does not wait for workers' hosts: the job does.
    shown = whole.submit("train", "demo", *settings(folder), starts=True)
    job = Job(folder, shown)
    assert "parts are on disk and whole; kept" in shown, shown
    assert job.parts == undisturbed.parts
    assert job.result["test_accuracy"] == undisturbed.result["test_accuracy"]
