"""Work on a batch that does not fall with its worst member. No torch here."""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

Member = TypeVar("Member")

Yielded = TypeVar("Yielded")


def by_halves(
    members: Sequence[Member],
    work: Callable[[Sequence[Member]], Iterable[Yielded] | None],
    fail: Callable[[Sequence[Member], Exception], Iterable[Yielded] | None],
) -> Generator[Yielded, None, None]:
    """Do the work on all members together; where it raises, on each half, down to the members that it fails on.

    The work must change nothing where it raises. `fail` gets a member that fails alone, and its error. What either
    yields is yielded.
    """
    waiting = [members] if members else []
    while waiting:
        part = waiting.pop()
        try:
            yield from work(part) or ()
        except Exception as error:
            if len(part) == 1:
                yield from fail(part, error) or ()
                continue
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
