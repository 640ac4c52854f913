"""Words of a call, checked before they become a message: protobuf's own errors name no argument."""

import math
from numbers import Real

from attractor._errors import InvalidRequest


def text(where: str, given: object) -> str:
    """The word as it was given.

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
    """Refuse what is no time.

    Raises:
        InvalidRequest: naming the argument, the value seen and the value expected.
    """
    if not isinstance(given, Real) or math.isnan(given):
        raise InvalidRequest.of(where, f"saw {given!r}; expected a number of seconds")
