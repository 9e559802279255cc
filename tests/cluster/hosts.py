"""Several hosts on one machine: each with its own address, processes, home, /tmp and sshd.

A host is a network namespace on a bridge, and in it namespaces for processes, mounts and the name.
The rest of the file system is everybody's, so that ``Hosts.shared`` is what NFS would be. Needs
root, and Debian's iproute2, openssh-client, openssh-server and rsync.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import final

PROGRAMS = ("ip", "ssh", "ssh-keygen", "unshare", "rsync", "/usr/sbin/sshd")
_BRIDGE, _NETWORK = "tutelage0", "10.87.0"  # hosts have .2, .3, …
OUTSIDE = f"{_NETWORK}.1"  # this machine, as hosts see it
_START_S = 20

# What a host's first process does: its own home, temporary files and shared memory, then sshd.
_FIRST = """
set -e
hostname {name}
{interpreter}
mount --rbind {home} /root
mount --bind {temporary} /tmp
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount -t tmpfs -o size=4g tmpfs /dev/shm
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
  /usr/sbin/sshd -D -e -f {config}
"""
_SSHD = """
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
AuthorizedKeysFile /root/.ssh/authorized_keys
MaxSessions 50
MaxStartups 50
"""


def missing_programs() -> list[str]:
    """What has to be installed before hosts can be made."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@final
class Hosts:
    """``count`` hosts while the context lasts; host 0 is the head of a cluster.

    ``folder`` must lie where the hosts see it: not below /tmp, /root, /run or /dev/shm.
    """

    def __init__(self, folder: Path, count: int) -> None:
        if any(folder.is_relative_to(own) for own in ("/tmp", "/root", "/run", "/dev/shm")):
            raise ValueError(f"hosts: {folder} is each host's own; choose another folder")
        self.folder, self.count = folder, count
        self.key, self.shared = folder / "key", folder / "shared"
        self._first: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Hosts:
        self.shared.mkdir(parents=True)
        try:
            for key in (self.key, self.folder / "host_key"):
                _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
            _do("ip", "link", "add", _BRIDGE, "type", "bridge")
            _do("ip", "addr", "add", f"{OUTSIDE}/24", "dev", _BRIDGE)
            _do("ip", "link", "set", _BRIDGE, "up")
            for number in range(self.count):
                self._make(number)
            for number in range(self.count):
                self._wait_for(number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every host, and with it all its processes."""
        for number, process in self._first.items():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _try("ip", "netns", "del", self.name(number))
            _try("ip", "link", "del", self.link(number))
        self._first.clear()
        _try("ip", "link", "del", _BRIDGE)

    def name(self, number: int) -> str:
        return f"tutelage-h{number}"

    def link(self, number: int) -> str:
        """The bridge's end of a host's cable."""
        return f"tutelage-v{number}"

    def address(self, number: int) -> str:
        return f"{_NETWORK}.{number + 2}"

    def home(self, number: int) -> Path:
        """A host's /root, as this machine sees it."""
        return self.folder / f"h{number}" / "home"

    def cut(self, number: int) -> None:
        """Take a host off the network; its processes go on."""
        _do("ip", "link", "set", self.link(number), "down")

    def mend(self, number: int) -> None:
        _do("ip", "link", "set", self.link(number), "up")

    def kill(self, number: int, *names: str) -> None:
        """End a host's processes of such names at once, as a fault would."""
        for name in names:
            self.run(number, f"kill -9 $(grep -slx '{name}' /proc/[0-9]*/comm | cut -d/ -f3)")

    def run(self, number: int, command: str, *, check: bool = True) -> str:
        """What a command prints on a host."""
        done = subprocess.run(
            [*self._ssh(number), command], capture_output=True, text=True, timeout=120, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def _make(self, number: int) -> None:
        name, link, address = self.name(number), self.link(number), self.address(number)
        home, temporary = self.home(number), self.folder / f"h{number}" / "tmp"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        temporary.mkdir()
        temporary.chmod(0o1777)
        shutil.copy(self.key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
        config = self.folder / f"h{number}" / "sshd_config"
        config.write_text(_SSHD.format(address=address, folder=self.folder))
        _do("ip", "netns", "add", name)
        _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _do("ip", "link", "set", link, "master", _BRIDGE, "up")
        _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _do("ip", "-n", name, "link", "set", device, "up")
        _do("ip", "-n", name, "route", "add", "default", "via", OUTSIDE)
        first = _FIRST.format(
            name=name,
            home=home,
            temporary=temporary,
            config=config,
            interpreter=_showing_interpreter(home),
        )
        with (self.folder / f"h{number}" / "sshd.log").open("wb") as log:
            self._first[number] = subprocess.Popen(
                [
                    *("ip", "netns", "exec", name),
                    *("unshare", "--pid", "--fork", "--mount", "--uts"),
                    *("--mount-proc", "--kill-child", "bash", "-c", first),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for(self, number: int) -> None:
        end = time.monotonic() + _START_S
        while subprocess.run([*self._ssh(number), "true"], capture_output=True).returncode:
            if time.monotonic() > end:
                log = (self.folder / f"h{number}" / "sshd.log").read_text()
                raise RuntimeError(f"host {number} does not answer: {log}")
            time.sleep(0.2)

    def _ssh(self, number: int) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        flags = [part for option in options for part in ("-o", option)]
        return ["ssh", *flags, "-i", str(self.key), f"root@{self.address(number)}"]


def _showing_interpreter(home: Path) -> str:
    """The command that shows a host the Python of this process, where that lies below /root."""
    interpreter = Path(sys.base_prefix)
    if not interpreter.is_relative_to("/root"):
        return ""
    seen = home / interpreter.relative_to("/root")
    seen.mkdir(parents=True)
    return f"mount --bind {interpreter} {seen}"


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _try(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)


if __name__ == "__main__":  # to look around by hand: hosts until Enter is pressed
    with Hosts(Path(sys.argv[1]), int(sys.argv[2])) as hosts:
        input(f"ssh -i {hosts.key} root@{hosts.address(0)}; Enter ends the hosts. ")
