"""A server that is told to end at any time after it said that it is ready."""

import time
from contextlib import ExitStack

from tests.chaos.faults.killing import arguments
from tests.chaos.ledger import failures
from tests.chaos.tally import Run, fault, pause
from tests.support.server_process import ServerProcess, drained, server_process

SWEPT_S, EVERY_S = 20.0, 0.5
"""The first seconds after the ready line, and how far apart the ends are in a full run"""
SAID = 20
"""Lines of what it said last that are kept"""


@fault("end-server", times=1 + int(SWEPT_S / EVERY_S))
def end_server(run: Run) -> None:
    """SIGTERM to a server, every 0.5 s up to 20 s after it was ready, and a start of the next; it ends with 0."""
    words = arguments(run)
    with ExitStack() as stack:

        def started() -> tuple[ServerProcess, float]:
            return stack.enter_context(server_process(*words, early=True)), time.monotonic()

        server, ready_s = started()
        with run.checker(server.address) as checker:
            for number in run.turns(checker):
                after_s = SWEPT_S * number / max(1, run.times - 1)
                if time.monotonic() > ready_s + after_s:
                    _end(run, server, "later")
                    stack.close()
                    server, ready_s = started()
                pause(max(0.0, ready_s + after_s - time.monotonic()))
                _end(run, server, f"{after_s:g} s after it was ready")
                stack.close()
                server, ready_s = started()
    for failure in failures(run.folder / "ledger"):
        run.tally.blame(failure)


def _end(run: Run, server: ServerProcess, when: str) -> None:
    """Tells it to end; it has to end with 0, and to have answered what was under way."""
    status, said = server.stop(), drained(server.errors)
    if status != 0:
        run.tally.blame(f"told to end {when}, it ended with {status}: {''.join(said[-SAID:])}")
    for line in said:
        if "cut off" in line:
            run.tally.blame(f"told to end {when}: {line.strip()}")
