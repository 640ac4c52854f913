"""Ids of the requests in a frame: how many there are, and whether each is free."""

from collections.abc import Iterable, Sequence, Set

from attractor_server.errors import InvalidRequest
from attractor_server.rpc.long_lists import describe_count


def check_count(count: int, where: str, *, limit: int) -> None:
    """Check the number of requests in a frame, before anything is done for each.

    Raises:
        InvalidRequest: there are none, or too many.
    """
    if not count:
        raise InvalidRequest.of(f"{where}.request_ids", "saw no request in the frame; expected at least 1")
    if count > limit:
        raise InvalidRequest.of(
            f"{where}.request_ids", f"saw {describe_count(count)} requests; expected at most {limit}"
        )


def check_ids(ids: Sequence[int], where: str, unanswered: Iterable[Set[int]]) -> None:
    """Check the ids of requests: with doubtful ones the client could not be told which of its requests failed.

    Raises:
        InvalidRequest: naming the ids.
    """
    if len(set(ids)) < len(ids):
        raise InvalidRequest.of(f"{where}.request_ids", "saw the same id twice; expected each to be another")
    for taken in unanswered:
        if not taken.isdisjoint(ids):
            seen = f"saw {next(i for i in ids if i in taken)}, which is not answered yet"
            raise InvalidRequest.of(f"{where}.request_ids", f"{seen}; expected ids that are free")
