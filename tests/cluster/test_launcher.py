"""``cluster.yaml`` and ``ray submit`` as a user runs them, on three hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import pytest
import yaml

from orchestrator.runs import find_runs
from tests.cluster.hosts import Hosts, missing_programs

ROOT = Path(__file__).resolve().parents[2]
NUM_HOSTS = 3
BUILDS_WITH = "setuptools>=77"  # as pyproject.toml says
_COUNT = "import ray; ray.init(); print('ALIVE', sum(node['Alive'] for node in ray.nodes()))"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@final
class Cluster:
    """Three hosts, and the commands of somebody who looks after them from outside."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.home = hosts.folder / "me"
        self.file = hosts.folder / "cluster.yaml"
        self.storage = hosts.shared

    def ray(self, *arguments: str, check: bool = True) -> str:
        """What a ``ray`` command prints, run in the checkout by a user with a home of their own."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ray")), *arguments],
            cwd=ROOT,
            env={**_plain_environment(), "HOME": str(self.home), "RAY_AUTH_MODE": "token"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"ray {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    def submit(self, *arguments: str, check: bool = True) -> str:
        script = str(ROOT / "distill" / "run.py")
        return self.ray("submit", str(self.file), script, "--", *arguments, check=check)

    def exec(self, command: str) -> str:
        return self.ray("exec", str(self.file), command)

    def nodes(self) -> int:
        """Nodes that are alive, as the head counts them."""
        found = re.search(r"ALIVE (\d+)", self.exec(f'python -c "{_COUNT}"'))
        return int(found[1]) if found else 0


def _plain_environment() -> dict[str, str]:
    """This process's, without what would tell Ray of another cluster or of other storage."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "TUTELAGE_")) and name != "PYTHONPATH"
    }


def changed(example: dict[str, Any], hosts: Hosts) -> dict[str, Any]:
    """``cluster.yaml`` with the lines changed that it asks a user to change.

    And a CPU a node, so that what needs two CPUs needs two nodes.
    """
    addresses = [hosts.address(number) for number in range(hosts.count)]
    example["provider"] |= {"head_ip": addresses[0], "worker_ips": addresses[1:]}
    example |= {"min_workers": hosts.count - 1, "max_workers": hosts.count - 1}
    example["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    setup = [line.replace("/mnt/tutelage", str(hosts.shared)) for line in example["setup_commands"]]
    assert setup != example["setup_commands"]
    example["setup_commands"] = setup
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        example[commands] = [
            f"{line} --num-cpus=1" if "ray start" in line else line for line in example[commands]
        ]
    return example


def install(home: Path, wheels: Path) -> None:
    """What ``setup_commands`` would download: the packages of this environment, by reference.

    ``wheels`` has what building needs, for there is no way out of these hosts.
    """
    subprocess.run([sys.executable, "-m", "venv", str(home / ".tutelage")], check=True)
    own = next((home / ".tutelage" / "lib").glob("python*/site-packages"))
    (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy(Path(sys.executable).with_name("ray"), home / ".tutelage" / "bin" / "ray")
    ray = home / ".tutelage" / "bin" / "ray"
    lines = ray.read_text().splitlines()
    ray.write_text("\n".join(["#!/root/.tutelage/bin/python", *lines[1:]]) + "\n")
    settings = home / ".config" / "pip" / "pip.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if lacking := missing_programs():
        pytest.fail(
            f"{', '.join(lacking)} missing: apt-get install iproute2 openssh-client "
            "openssh-server rsync"
        )
    folder = Path(f"/var/tmp/tutelage-cluster-{os.getpid()}")
    try:
        with Hosts(folder, NUM_HOSTS) as hosts:
            wheels = folder / "wheels"
            download = ("download", "--quiet", "--no-deps", "--dest", str(wheels), BUILDS_WITH)
            subprocess.run([sys.executable, "-m", "pip", *download], check=True)
            for number in range(NUM_HOSTS):
                install(hosts.home(number), wheels)
            made = Cluster(hosts)
            made.home.mkdir()
            made.ray("get-auth-token", "--generate")
            example = yaml.safe_load((ROOT / "cluster.yaml").read_text())
            made.file.write_text(yaml.safe_dump(changed(example, hosts)))
            print(made.ray("up", "-y", str(made.file)))
            wait_until(lambda: made.nodes() == NUM_HOSTS, timeout_s=180)
            yield made
            print(made.ray("down", "-y", str(made.file)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(1)


def test_the_demo_is_recorded_and_trained_on_several_nodes(cluster: Cluster) -> None:
    workers = ("workers.count=2", "workers.cpus=1")  # of nodes with one CPU each
    changes = ("schedule.epochs=2", "seeds=[0]", "baselines=[]", *workers)
    shown = cluster.submit("train", "demo", *(f"-s {change}" for change in changes))
    assert "student by" in shown, shown  # the table
    (run,) = find_runs(cluster.storage / "runs")
    result = json.loads((run.path / "result.json").read_text())
    assert result["epochs"] == 2
    assert list((cluster.storage / "cache" / "signals").rglob("*.arrow"))
    for number in range(NUM_HOSTS):
        # Of a host's own folders; what the package brings along is no part of a run.
        found = cluster.hosts.run(
            number, "find /root /tmp /dev/shm -name '*.arrow' -o -name seed-0"
        )
        assert found == ""
