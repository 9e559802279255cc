"""Who may use a cluster: whoever has its token, and of the dashboard only the head itself."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import NUM_HOSTS, Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
_OURS = "RAY_AUTH_MODE=token"  # the one in ~/.ray/auth_token
_OTHER = f"{_OURS} RAY_AUTH_TOKEN={'0' * 64}"
_NONE = "RAY_AUTH_MODE=disabled"


def ray_on(cluster: Cluster, number: int, command: str, *, as_whom: str) -> str:
    """What a ``ray`` command prints on a host, and its exit status."""
    ray = "~/.tutelage/bin/ray"
    line = f"{as_whom} {ray} {command} 2>&1; echo status $?"
    return cluster.hosts.run(number, line)


def connecting(cluster: Cluster, source: int, address: str) -> str:
    """What becomes of a TCP connection from a host: "open", or bash's reason why not."""
    host, port = address.split(":")
    return cluster.hosts.run(source, f"(exec 3<>/dev/tcp/{host}/{port}) 2>&1 && echo open || true")


def test_a_caller_with_another_token_or_none_is_refused_by_the_head(cluster: Cluster) -> None:
    ask = f"status --address {cluster.hosts.address(0)}:6379"
    assert "status 0" in ray_on(cluster, 1, ask, as_whom=_OURS)
    for stranger in (_OTHER, _NONE):
        shown = ray_on(cluster, 1, ask, as_whom=stranger)
        assert "status 0" not in shown, shown
        assert "AuthenticationError" in shown, shown


def test_a_strangers_job_is_refused_even_on_the_head_itself(cluster: Cluster) -> None:
    mark = cluster.storage / "mark"
    ask = f"job submit --address http://127.0.0.1:8265 -- touch {mark}"
    for stranger in (_OTHER, _NONE):
        shown = ray_on(cluster, 0, ask, as_whom=stranger)
        assert "status 0" not in shown, shown
        assert "uthenticat" in shown, shown
    assert not mark.exists()
    assert "status 0" in ray_on(cluster, 0, ask, as_whom=_OURS)
    assert mark.exists()


def test_the_dashboard_is_closed_to_other_hosts(cluster: Cluster) -> None:
    head = cluster.hosts.address(0)
    assert connecting(cluster, 0, "127.0.0.1:8265") == "open\n"
    assert connecting(cluster, 1, f"{head}:6379") == "open\n"
    for source in range(NUM_HOSTS):
        assert "Connection refused" in connecting(cluster, source, f"{head}:8265")
