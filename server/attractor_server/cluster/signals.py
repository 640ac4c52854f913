"""SIGTERM stays with whoever handles it while Ray starts, which would take it and abort the process (ray#17308).

Ray puts a handler of its own in place of Python's, and its core another one below that. So the signal waits while Ray
starts: in this thread, and in those that were started while it was blocked, which leave it to this one for good.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGTERM = {signal.SIGTERM}


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """Hold SIGTERM back in this thread until the end of the block, and in threads started in it for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGTERM)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Hold SIGTERM back as `sigterm_waits`, and have it handled after the block as it was before."""
    set_handler = signal.signal

    def set_other(signalnum: "int | signal.Signals", handler: "signal._HANDLER") -> "signal._HANDLER":
        return signal.getsignal(signalnum) if signalnum == signal.SIGTERM else set_handler(signalnum, handler)

    with sigterm_waits():
        signal.signal = set_other
        try:
            yield
        finally:
            signal.signal = set_handler
            if threading.current_thread() is threading.main_thread() and (handler := signal.getsignal(signal.SIGTERM)):
                signal.signal(signal.SIGTERM, handler)  # over what Ray's core has put below Python's


def _receive() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGTERM)


os.register_at_fork(after_in_child=_receive)  # Ray's processes are ended by it
