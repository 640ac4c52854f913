"""A look at a process that serves: stacks, tasks and a profile. Places alone, and no values: those are users'."""

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Final

PERIOD_S: Final = 0.01

_DEPTH: Final = 64


def describe_stacks() -> str:
    """Return the stack of each thread, the outermost function first."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, for debuggers
    return "\n".join(
        f"{thread.name}\n{_indent(_list_places(frames[thread.ident]))}"
        for thread in threading.enumerate()
        if thread.ident in frames
    )


def describe_tasks() -> str:
    """Return the tasks of this event loop, each with the functions that it waits in."""
    return "\n".join(
        f"{task.get_name()}\n{_indent(list(_list_awaited(task)))}"
        for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    )


def profile(seconds: float) -> str:
    """Look at all other threads again and again; return how often each stack was seen, as flame graphs are drawn of."""
    own, end_s = threading.get_ident(), time.perf_counter() + seconds
    seen: Counter[str] = Counter()
    while time.perf_counter() < end_s:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 - as above
            if ident != own:
                seen[";".join([names.get(ident, str(ident)), *_list_places(frame, line=False)])] += 1
        time.sleep(PERIOD_S)
    return "".join(f"{stack} {count}\n" for stack, count in seen.most_common())


def _list_awaited(task: "asyncio.Task[object]") -> Iterator[str]:
    awaited: object = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        yield _describe(frame)
        awaited = getattr(awaited, "cr_await", None)


def _list_places(frame: FrameType | None, *, line: bool = True) -> list[str]:
    """Return the functions of a stack, the outermost first."""
    places: list[str] = []
    while frame is not None and len(places) < _DEPTH:
        places.append(_describe(frame, line=line))
        frame = frame.f_back
    return places[::-1]


def _describe(frame: FrameType, *, line: bool = True) -> str:
    code = frame.f_code
    file = code.co_filename.rpartition("/")[2]
    return f"{code.co_qualname} ({file}:{frame.f_lineno})" if line else f"{code.co_qualname} ({file})"


def _indent(lines: list[str]) -> str:
    return "".join(f"  {line}\n" for line in lines)
