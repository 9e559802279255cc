"""One cluster for all tests of the folder: to make it takes longer than most of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.cluster import NUM_HOSTS, Cluster, cluster_of_hosts, wait_until
from tests.cluster.hosts import missing_programs
from tests.cluster.jobs import Job, run_to_its_end, settings


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if lacking := missing_programs():
        pytest.fail(
            f"{', '.join(lacking)} missing: apt-get install iproute2 openssh-client "
            "openssh-server rsync"
        )
    with cluster_of_hosts(Path(f"/var/tmp/tutelage-cluster-{os.getpid()}")) as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster) -> Job:
    """The job as it goes where nothing happens."""
    folder = cluster.storage / "undisturbed"
    job = run_to_its_end(cluster, folder, settings(folder))
    # Asked at once: the head's next loss takes its memory along.
    return replace(job, recorders=cluster.nodes_that_ran("TeacherActor.record"))


@pytest.fixture
def whole(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with all its hosts, before and after."""
    wait_until(lambda: cluster.nodes() == NUM_HOSTS)
    yield cluster
    for number in range(NUM_HOSTS):
        cluster.hosts.mend(number)
    wait_until(lambda: cluster.nodes() == NUM_HOSTS)
