"""``cluster.yaml`` and the ways to run things on it, as a user runs them, on three hosts."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import NUM_HOSTS, Cluster
from tests.cluster.jobs import NUM_PARTS, Job, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
_ADDRESS = "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265"  # of the head's dashboard, on the head


def test_the_demo_is_recorded_and_trained_on_several_nodes(undisturbed: Job) -> None:
    assert "student by" in undisturbed.shown, undisturbed.shown  # the table
    assert undisturbed.result["workers"] == 2  # of nodes with one CPU each
    assert len(undisturbed.parts) == NUM_PARTS
    assert len(undisturbed.recorders) >= 2


def test_nothing_of_a_run_lies_on_a_hosts_own_disk(cluster: Cluster, undisturbed: Job) -> None:
    assert undisturbed.result
    for number in range(NUM_HOSTS):
        # What the package brings along is no part of a run.
        own = "find /root /tmp /dev/shm -name '*.arrow' -o -name seed-0 -o -name '*.pt'"
        assert cluster.hosts.run(number, own) == ""


def test_a_folder_that_nodes_do_not_share_is_named_before_anything_is_done(
    cluster: Cluster, undisturbed: Job
) -> None:
    own = ("-s", "output.root=/root/mine", "-s", "schedule.epochs=1")
    shown = cluster.submit("train", "demo", *settings(undisturbed.folder), *own, check=False)
    assert "error: output.root: node 10.87.0." in shown, shown
    assert "does not share the folder /root/mine" in shown
    assert "TUTELAGE_STORAGE" in shown


def test_arguments_of_any_kind_reach_the_script(cluster: Cluster) -> None:
    changes = ("method={name: kd, temperature: 2}", "seeds=[3, 4]")
    shown = cluster.submit("show", "demo", *(f"-s{change}" for change in changes))
    assert "temperature: 2.0" in shown
    assert "- 4" in shown


def test_our_own_commands_run_on_the_head(cluster: Cluster) -> None:
    shown = cluster.exec("tutelage doctor", check=False)
    assert "joined auto in" in shown, shown
    assert "3 CPUs" in shown
    assert str(cluster.storage / "runs") in shown


def test_a_job_that_ray_looks_after_brings_its_folder_along(
    cluster: Cluster, undisturbed: Job
) -> None:
    asked = " ".join(("cache", "demo", *settings(undisturbed.folder)))
    shown = cluster.exec(
        f"cd ~/tutelage && {_ADDRESS} ray job submit --working-dir . -- "
        f"python distill/run.py {asked}"
    )
    assert f"0 parts recorded, {NUM_PARTS} kept" in shown, shown
