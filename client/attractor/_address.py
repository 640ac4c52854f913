"""Addresses of servers, as users write them and as gRPC takes them."""

import ipaddress
import re

from attractor._errors import InvalidRequest

PORT = 7171
"""Of a server that was told no other"""
_EXPECTED = "expected HOST or HOST:PORT, as localhost:7171 or [::1]:7171"
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""Those of gRPC's own names, which it is left to understand"""
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^\[\]:/\s]+)(?::([0-9]{1,5}))?")


def address_of(given: object) -> str:
    """The address with a port.

    Raises:
        InvalidRequest: it can be none.
    """
    if not isinstance(given, str):
        raise InvalidRequest.of("address", f"saw {type(given).__name__}; {_EXPECTED}")
    if given.startswith(_SCHEMES):
        return given
    if _is_ipv6(given):
        return f"[{given}]:{PORT}"
    if (found := _HOST_AND_PORT.fullmatch(given)) is None:
        scheme = ", without a scheme" if "://" in given else ""
        raise InvalidRequest.of("address", f"saw {given!r}; {_EXPECTED}{scheme}")
    host, port = found.groups()
    return given if port else f"{host}:{PORT}"


def _is_ipv6(given: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(given))
    except ValueError:
        return False
