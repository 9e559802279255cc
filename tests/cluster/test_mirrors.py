"""Records in an object store, of which every host keeps a mirror on its own disk."""

from __future__ import annotations

import hashlib

import pytest

from tests.cluster.cluster import NUM_HOSTS, Cluster
from tests.cluster.jobs import NUM_PARTS, NUM_PASSES, Job, given, settings
from tests.cluster.object_store import BUCKET, MIRROR, client, object_store
from tests.remote_stores import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def stored(server: Server) -> dict[str, str]:
    """The sha256 of every part in the bucket."""
    s3 = client(server)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    names = [found["Key"] for page in pages for found in page["Contents"]]
    return {
        name: hashlib.sha256(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()).hexdigest()
        for name in names
        if name.endswith(".arrow")
    }


def test_every_host_reads_what_others_recorded_and_keeps_no_more_than_it_may(
    cluster: Cluster, undisturbed: Job
) -> None:
    recorded = (undisturbed.folder / "signals").rglob("*.arrow")
    pass_bytes = sum(path.stat().st_size for path in recorded) // NUM_PASSES
    bound = 2 * pass_bytes  # of three passes, which are read in turn
    folder = cluster.storage / "mirrored"
    places = (
        f"signals.root=s3://{BUCKET}",
        f"signals.mirror={MIRROR}",
        f"signals.mirror_bytes={bound}",
    )
    with object_store(cluster) as server:
        shown = cluster.submit("train", "demo", *settings(folder), *given(*places))
        assert stored(server) == undisturbed.parts
        fetched = {request.split("?")[0] for request in server.downloads()}
        count = "find {} -name '*.arrow' -printf '%s\\n' 2>/dev/null"
        kept = [
            sum(map(int, cluster.hosts.run(number, count.format(MIRROR), check=False).split()))
            for number in range(NUM_HOSTS)
        ]
    job = Job(folder, shown)
    assert job.result["workers"] == 2
    assert job.result["test_accuracy"] == undisturbed.result["test_accuracy"]
    assert sum(size > 0 for size in kept) >= 2, kept
    assert max(kept) <= bound, kept
    assert len(fetched) > NUM_PARTS / 2, fetched
