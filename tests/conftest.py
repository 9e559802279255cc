"""What all tests share: a cache of their own, one thread, tiny real data, one Ray session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.session import ENVIRONMENT

if TYPE_CHECKING:
    from tests.remote_stores import Server

os.environ |= ENVIRONMENT  # Ray reads them when it is imported, so before any test module does
os.environ.pop("RAY_ADDRESS", None)  # tests never join a cluster that somebody uses

OBJECT_STORE_BYTES = 200 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that a process begins last is waited for alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache for all tests of a session, instead of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("TUTELAGE_CACHE")
    os.environ["TUTELAGE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["TUTELAGE_CACHE"]
    else:
        os.environ["TUTELAGE_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in a worker of one CPU: sums are then the same to the bit, here and there."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fashion(cache: Path) -> Path:
    """400 + 100 real images of 14×14 pixels, as a user's arrays."""
    from tests.helpers import write_fashion

    return write_fashion(cache / "fashion.npz", num_train=400, num_test=100)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """An S3 server on this machine, with an empty ``bucket``; the environment leads to it."""
    import boto3

    from tests.remote_stores import Server

    with pytest.MonkeyPatch.context() as patch:
        server = Server()
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield server
        server.stop()


@pytest.fixture
def url(s3_server: Server, tmp_path: Path) -> str:
    """A prefix of the test's own in the bucket; the server remembers this test's requests alone."""
    s3_server.requests.clear()
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture(scope="session")
def ray_instance(cache: Path) -> Iterator[None]:  # noqa: ARG001, workers inherit its variable
    """One Ray for all tests, two CPUs wide whatever the machine."""
    import ray

    folder = tempfile.mkdtemp(prefix="tt-")  # short: the path of a socket has 107 characters
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _ray_where_marked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("ray_instance")
