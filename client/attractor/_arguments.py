"""Checks of arguments before they become a message: protobuf's own errors name no argument."""

import ipaddress
import math
import re
from numbers import Real

from attractor._errors import InvalidRequest

DEFAULT_PORT = 7171
_EXPECTED = "expected HOST or HOST:PORT, as localhost:7171 or [::1]:7171"
SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""Schemes of gRPC's own names, which it is left to understand"""
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^\[\]:/\s]+)(?::([0-9]{1,5}))?")


def parse_address(given: object) -> str:
    """Return the address of a server, with a port.

    Raises:
        InvalidRequest: it is no address.
    """
    if not isinstance(given, str):
        raise InvalidRequest.of("address", f"saw {type(given).__name__}; {_EXPECTED}")
    if given.startswith(SCHEMES):
        return given
    if _is_ipv6(given):
        return f"[{given}]:{DEFAULT_PORT}"
    if (found := _HOST_AND_PORT.fullmatch(given)) is None:
        scheme = ", without a scheme" if "://" in given else ""
        raise InvalidRequest.of("address", f"saw {given!r}; {_EXPECTED}{scheme}")
    host, port = found.groups()
    return given if port else f"{host}:{DEFAULT_PORT}"


def check_text(where: str, given: object) -> str:
    """Return the text as it was given.

    Raises:
        InvalidRequest: it is no str, or one that UTF-8 cannot say.
    """
    if not isinstance(given, str):
        raise InvalidRequest.of(where, f"saw {type(given).__name__}; expected a str")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InvalidRequest.of(where, f"saw {given!r}, with half a character; expected what UTF-8 can say") from None
    return given


def check_seconds(where: str, given: object) -> None:
    """Refuse a value that is no time in seconds.

    Raises:
        InvalidRequest: naming the argument, the value seen and the value expected.
    """
    if not isinstance(given, Real) or math.isnan(given):
        raise InvalidRequest.of(where, f"saw {given!r}; expected a number of seconds")


def _is_ipv6(given: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(given))
    except ValueError:
        return False
