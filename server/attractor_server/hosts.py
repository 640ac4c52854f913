"""Addresses of this machine, and how they are written."""

import socket

ANY_HOST = ("0.0.0.0", "::", "[::]")  # noqa: S104 - what users write for all interfaces

_OUTSIDE = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that nobody has: nothing is sent there, but a route is chosen"""

_DISCARD_PORT = 9


def join_port(host: str, port: int) -> str:
    """Return host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split_port(address: str) -> tuple[str, str]:
    """Return host and port of an address, the host without brackets; an empty host where the address has no port."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def machine_address() -> str:
    """Return the address at which others reach this machine: the one it would send from; without a route loopback."""
    for family, outside in _OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, _DISCARD_PORT))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"
