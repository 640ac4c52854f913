"""Words of a call, checked before they become a message: protobuf's own errors name no argument."""

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
