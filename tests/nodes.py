"""More nodes for the tests' Ray, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._raylet import GcsClientOptions
from ray.cluster_utils import Cluster


@contextmanager
def grown_cluster() -> Iterator[Cluster]:
    """The session's Ray, to add nodes to: a head of its own would take seconds more."""
    head = ray._private.worker.global_worker.node
    cluster = Cluster(shutdown_at_exit=False)
    cluster.head_node = head
    options = GcsClientOptions.create(
        head.gcs_address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
    )
    cluster.global_state._initialize_global_state(options)
    try:
        yield cluster
    finally:
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)
