"""What every process of a joined cluster is told before it does anything."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
_NAME_BYTES = 256  # a request's, of which 15 may be the name


def use_the_clusters_interface() -> None:
    """Let gloo listen where this node's Ray does.

    By itself it takes the address that the host's own name resolves to: often 127.0.0.1, where no
    other host finds it, and the workers of a student wait for one another until they time out.
    """
    import ray

    if interface := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault(GLOO_INTERFACE, interface)


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where none has."""
    found = (name for _, name in socket.if_nameindex() if _address_of(name) == address)
    return next(found, None)


def _address_of(interface: str) -> str | None:
    request = struct.pack(f"{_NAME_BYTES}s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked.fileno(), _GET_ADDRESS, request)
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(answer[20:24])
