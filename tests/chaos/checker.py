"""The checker: a process of its own that stores, writes down what was acknowledged, and judges afterwards."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread
from tests.chaos.ledger import Images, Ledger, histories
from tests.chaos.load import Load, still
from tests.chaos.verifying import Report, verify
from tests.support.forkserver import CONTEXT

import attractor

ANSWER_TIMEOUT_S = 240.0
QUICK = attractor.Retry(first_delay_s=0.02, limit_delay_s=0.2)


class Checker(AbstractContextManager["Checker"]):
    """The checker's process, as a fault sees it."""

    def __init__(self, address: str, *, ledger: Path, models: Path, timeout_s: float = 120.0) -> None:
        """Each store is given `timeout_s`, repeats included."""
        self._line, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_main, args=(theirs, address, ledger, models, timeout_s), daemon=True)
        self._process.start()
        theirs.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def begin(self, prefix: str) -> None:
        """Starts the load, and waits until all its memories take stores."""
        self._ask("begin", prefix)

    def served(self) -> None:
        """Waits until every memory of the load has taken a store that was begun after now."""
        self._ask("served")

    def end(self) -> Report:
        """Ends the load, and judges."""
        report = self._ask("end")
        assert isinstance(report, Report)
        return report

    def _ask(self, command: str, prefix: str = "") -> object:
        self._line.send((command, prefix))
        assert self._line.poll(ANSWER_TIMEOUT_S), f"the checker does not answer, asked to {command}"
        return self._line.recv()


def _main(line: Connection, address: str, ledger: Path, models: Path, timeout_s: float) -> None:
    anyio.run(partial(_serve, line, address, ledger, models, timeout_s))


async def _serve(line: Connection, address: str, ledger: Path, models: Path, timeout_s: float) -> None:
    """One round after another, until this process is killed."""
    async with attractor.connect(address, timeout_s=timeout_s, connect_timeout_s=60, retry=QUICK) as client:
        book = Ledger(ledger)
        while True:
            _, prefix = await _command(line)
            before = await still(client, prefix)
            load = Load(client, book, prefix, timeout_s)
            await _under_load(line, load)
            line.send(await _judged(client, load, ledger, before, models))


async def _under_load(line: Connection, load: Load) -> None:
    async with anyio.create_task_group() as tasks:
        load.start(tasks)
        await load.served(2)
        line.send("storing")
        while (await _command(line))[0] == "served":
            await load.served()
            line.send("served")
        await load.stop()


async def _judged(
    client: attractor.AsyncClient, load: Load, ledger: Path, before: Mapping[str, Sequence[Images]], models: Path
) -> Report:
    known = {name: one for name, one in histories(ledger, load.prefix + "/").items() if one.sent}
    report = await verify(client, known, before, models)
    report.longest_s = load.longest_s
    return report


async def _command(line: Connection) -> tuple[str, str]:
    command, prefix = await anyio.to_thread.run_sync(line.recv)
    return str(command), str(prefix)
