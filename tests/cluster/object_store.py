"""An object store outside of the hosts, of which every host keeps a mirror on its own disk."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import boto3
from botocore.client import BaseClient

from tests.cluster.cluster import Cluster
from tests.cluster.hosts import OUTSIDE
from tests.remote_stores import Server

BUCKET, MIRROR = "records", "/root/mirror"
_CONFIG = "[default]\nregion = us-east-1\nendpoint_url = {url}\n"
_CREDENTIALS = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"


@contextmanager
def object_store(cluster: Cluster) -> Generator[Server]:
    """An empty bucket; each host's own files say where it is, and as whom it is asked."""
    server = Server(OUTSIDE)
    folders = [cluster.hosts.home(number) / ".aws" for number in range(cluster.hosts.count)]
    for folder in folders:
        folder.mkdir()
        (folder / "config").write_text(_CONFIG.format(url=server.url))
        (folder / "credentials").write_text(_CREDENTIALS)
    client(server).create_bucket(Bucket=BUCKET)
    try:
        yield server
    finally:
        server.stop()
        for number in range(cluster.hosts.count):
            cluster.hosts.run(number, f"rm -rf {MIRROR} ~/.aws")


def client(server: Server) -> BaseClient:
    """Of somebody outside of the hosts."""
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
