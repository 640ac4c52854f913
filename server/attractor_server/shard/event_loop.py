"""The event loop of a process that serves, and its garbage collector."""

import gc
import sys
from collections.abc import Mapping


def loop_options() -> Mapping[str, object]:
    """Return options for anyio's asyncio backend: uvloop, where it exists, took 15 % less processor time for a lone
    call.
    """
    if sys.platform == "win32":
        return {}
    import uvloop  # noqa: PLC0415 - not on every platform

    return {"loop_factory": uvloop.new_event_loop}


RARELY = 100
"""Collections of the middle generation before one of all: by default 10"""


def freeze_heap() -> None:
    """Never collect what there is now: torch and Ray alone are 200,000 objects, which stay for good.

    A full look at them took 0.12 s on a quiet machine, 0.45 s on a busy one, and nobody was answered meanwhile. Without
    them what is left is little, so Python would look at all of that often: ten thousand requests that wait cost 0.05 to
    0.2 s each time, five times a second, until nothing else was done.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, RARELY)
