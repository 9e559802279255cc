"""A cluster of three hosts, and what somebody does who looks after it from outside."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import yaml

from tests.cluster.hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]
NUM_HOSTS = 3
BUILDS_WITH = "setuptools>=77"  # as pyproject.toml says
PATIENCE_S = 900.0  # with what takes a quiet machine a tenth of it
_POLL_S = 0.5
_RAN = (  # of a method's calls, the nodes; Ray's State API knows them after their ends, too
    "from ray.util.state import list_tasks; "
    "tasks = list_tasks(filters=[('name', '=', '{name}')], limit=10_000); "
    "print('RAN ON', *{{task.node_id for task in tasks if task.state == 'FINISHED'}})"
)
_COUNT = "import ray; ray.init(); print('ALIVE', sum(node['Alive'] for node in ray.nodes()))"


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
            self._command(arguments),
            cwd=ROOT,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"ray {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    def submit(self, *arguments: str, starts: bool = False, check: bool = True) -> str:
        """``ray submit`` of the one command, to its end; ``starts`` the cluster if need be."""
        return self.ray(*self._submission(arguments, starts=starts), check=check)

    @contextmanager
    def submitting(self, *arguments: str) -> Generator[Submission]:
        """``ray submit`` of the one command, while other things are done."""
        log = self.hosts.folder / f"submission-{time.monotonic_ns()}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._command(self._submission(arguments)),
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            yield Submission(process, log)
        finally:
            process.kill()
            process.wait()

    def exec(self, command: str, *, check: bool = True) -> str:
        return self.ray("exec", str(self.file), command, check=check)

    def nodes(self) -> int:
        """Nodes that are alive, as the head counts them; 0 where there is no head."""
        found = re.search(r"ALIVE (\d+)", self.exec(f'python -c "{_COUNT}"', check=False))
        return int(found[1]) if found else 0

    def nodes_that_ran(self, method: str) -> frozenset[str]:
        """The nodes, by Ray's ids, on which calls of an actor's method came to their end."""
        shown = self.exec(f'python -c "{_RAN.format(name=method)}"')
        (line,) = re.findall(r"^RAN ON(.*)", shown, flags=re.MULTILINE)
        return frozenset(line.split())

    def hosts_with(self, process: str) -> list[int]:
        """The hosts on which a process runs that bears such a name."""
        command = f"grep -slaz '^{process}' /proc/[0-9]*/cmdline"
        numbers = range(self.hosts.count)
        return [number for number in numbers if self.hosts.run(number, command, check=False)]

    def hosts_running(self, program: str) -> list[int]:
        """The hosts on which such a program runs, whatever its processes are named."""
        command = f"grep -slx '{program}' /proc/[0-9]*/comm"
        numbers = range(self.hosts.count)
        return [number for number in numbers if self.hosts.run(number, command, check=False)]

    def _submission(self, arguments: tuple[str, ...], *, starts: bool = False) -> list[str]:
        options = ["--start"] if starts else []
        script = str(ROOT / "distill" / "run.py")
        # Ray joins them by spaces, and the head's shell reads them once more.
        quoted = map(shlex.quote, arguments)
        return ["submit", *options, str(self.file), script, "--", *quoted]

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [str(Path(sys.executable).with_name("ray")), *arguments]

    def _environment(self) -> dict[str, str]:
        return {**plain_environment(), "HOME": str(self.home), "RAY_AUTH_MODE": "token"}


@final
class Submission:
    """A command that runs on the head."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for ``condition``, which must come before the command ends."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._process.poll() is None, f"ended too early:\n{self.text}"
            assert time.monotonic() < end, f"waited in vain:\n{self.text}"
            time.sleep(_POLL_S)

    def end(self) -> int:
        """Wait for the end, whatever it is; the exit status."""
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end:\n{self.text}") from None

    def succeed(self) -> str:
        """Wait for the end, which must be a success; what was printed."""
        assert self.end() == 0, self.text
        return self.text


def wait_until(condition: Callable[[], object], *, timeout_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(_POLL_S)


@contextmanager
def cluster_of_hosts(folder: Path) -> Generator[Cluster]:
    """Hosts, ``cluster.yaml`` changed for them, ``ray up``; in the end ``ray down``."""
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
            wait_until(lambda: made.nodes() == NUM_HOSTS)
            yield made
            print(made.ray("down", "-y", str(made.file)))
            # It ends the head's; the others end when they have missed the head for a minute.
            wait_until(lambda: not made.hosts_running("raylet"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain_environment() -> dict[str, str]:
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
            line.replace("ray start", "ray start --num-cpus=1") for line in example[commands]
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


if __name__ == "__main__":  # to look around by hand: a cluster until Enter is pressed
    with cluster_of_hosts(Path(sys.argv[1])) as cluster:
        input(f"{cluster.file}; Enter ends it. ")
