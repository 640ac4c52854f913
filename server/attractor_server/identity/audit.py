"""The audit log: who did what to which memory, a line of JSON each. Never a value, a payload or a secret."""

import json
import logging
import queue
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Final

import anyio

from attractor_server.errors import NotAllowed, ServerError, SettingsError
from attractor_server.files import make_file

COUNT_EVERY_S: Final = 60.0

KEYS_LIMIT: Final = 10_000
"""Callers and memories that are counted apart in that time; what comes beyond them is counted together"""

_LINES_LIMIT: Final = 10_000
"""Lines that wait for the disk"""

_OTHERS: Final = ("others", "", "")

_Key = tuple[str, str, str]
"""Caller, address and memory"""


class _BoundedQueueHandler(QueueHandler):
    """Puts lines in a queue, and counts those for which there is no room."""

    lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count a line that is lost."""
        self.lost += 1


class AuditLog:
    """Writes lines in a thread of its own. Control calls and refusals have one each, all others are counted."""

    def __init__(self, handler: _BoundedQueueHandler, shard: int) -> None:
        """Use `open_audit_log`."""
        self._handler = handler
        self._shard = shard
        self._counts: dict[_Key, Counter[str]] = {}

    async def run(self) -> None:
        """Write what was counted, once a minute, until cancelled."""
        while True:
            await anyio.sleep(COUNT_EVERY_S)
            self.flush()

    def flush(self) -> None:
        """Write what was counted."""
        counts, self._counts = self._counts, {}
        for (who, address, memory), counted in counts.items():
            self.write(who=who, address=address, memory=memory, counts=dict(counted))
        if lost := self._handler.lost:
            self._handler.lost -= lost
            self.write(what="audit log", outcome=f"{lost} lines lost, since the disk was too slow")

    def write(self, **values: str | Sequence[str] | Mapping[str, int]) -> None:
        """Write a line with these values; empty ones are left out."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "shard": self._shard, **{name: value for name, value in values.items() if value}}
        text = json.dumps(line, separators=(",", ":"))  # ASCII: no name can forge a line
        self._handler.handle(logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "levelname": "INFO"}))

    def count(self, what: str, who: str, address: str, memory: str) -> int:
        """Count something, and return how often there was the same in this minute."""
        key = (who, address, memory)
        if key not in self._counts and len(self._counts) >= KEYS_LIMIT:
            key = _OTHERS
        counted = self._counts.setdefault(key, Counter())
        counted[what] += 1
        return counted[what]


class CallAudit:
    """The audit of one call."""

    def __init__(  # noqa: PLR0913 - who calls what, from where
        self, log: AuditLog, method: str, who: str, address: str, *, counted: bool, streamed: bool = False
    ) -> None:
        """Where it is `counted` the call has no line of its own, unless it is refused.

        One that is `streamed` as well counts what it does in each memory by itself.
        """
        self._log = log
        self._method = method.rpartition("/")[2]
        self._who, self._address = who, address
        self._counted = counted
        self._names_itself = counted and streamed
        self._memories: list[str] = []

    def note(self, memory: str) -> None:
        """Note the name of a memory that the call is about."""
        if not self._names_itself:
            self._memories.append(memory)

    def count(self, what: str, memory: str) -> None:
        """Count a request in a session."""
        self._log.count(what, self._who, self._address, memory)

    def refuse(self, memory: str, outcome: str) -> None:
        """Write that something was refused; its repeats within a minute are counted."""
        if self._log.count(f"{self._method} refused", self._who, self._address, memory) == 1:
            self._write(outcome, [memory] if memory else [])

    def end(self, outcome: str) -> None:
        """Write or count a call that was not refused."""
        if self._counted:
            for memory in self._memories or [""]:
                self._log.count(self._method, self._who, self._address, memory)
        else:
            self._write(outcome, self._memories)

    def _write(self, outcome: str, memories: Sequence[str]) -> None:
        named: str | Sequence[str] = memories[0] if len(memories) == 1 else memories
        self._log.write(what=self._method, who=self._who, address=self._address, memory=named, outcome=outcome)


@contextmanager
def record_end(audit: CallAudit | None) -> Iterator[None]:
    """Write or count the call of the block with its outcome, unless it was refused and is written down already."""
    outcome = "CANCELLED"
    try:
        yield
        outcome = "OK"
    except NotAllowed:
        outcome = ""
        raise
    except Exception as error:
        outcome = error.reason if isinstance(error, ServerError) else type(error).__name__
        raise
    finally:
        if audit is not None and outcome:
            audit.end(outcome)


@contextmanager
def open_audit_log(path: Path, shard: int) -> Iterator[AuditLog]:
    """Open the file, which is for this user alone; lines are added at its end, also where it was moved away meanwhile.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        make_file(path)
        to_file = WatchedFileHandler(path, encoding="ascii")
    except OSError as error:
        raise SettingsError(f"audit_log: saw {str(path)!r}, which cannot be written: {error.strerror}") from None
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_LINES_LIMIT)
    handler = _BoundedQueueHandler(lines)
    listener = QueueListener(lines, to_file)
    listener.start()
    log = AuditLog(handler, shard)
    try:
        yield log
    finally:
        log.flush()
        listener.stop()
        to_file.close()
