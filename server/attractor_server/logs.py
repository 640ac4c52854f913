"""Lines of the log, as text or as JSON objects: the form, and facts that every line of a process carries."""

import logging
from contextvars import ContextVar
from typing import Final, Literal, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]

COMMAND: Final = "%(name)s"
"""What lines of the command are by, in place of the name of a shard"""

TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")
"""Of the traced request that is being served, if it is one"""


class Facts(logging.Filter):
    """Adds facts of a process to each line that a handler takes, and the id of the trace that it belongs to."""

    def __init__(self, **facts: object) -> None:
        super().__init__()
        self._facts = facts

    def update(self, **facts: object) -> None:
        """Change facts from now on."""
        self._facts = {**self._facts, **facts}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, with the facts added."""
        for name, value in self._facts.items():
            setattr(record, name, value)
        if trace_id := TRACE_ID.get():
            record.trace_id = trace_id
        return True


def make_formatter(kind: LogFormat, who: str = COMMAND) -> logging.Formatter:
    """Return the formatter of lines by a part of the server; as JSON one object a line, with whatever it carries."""
    if kind == "text":
        return logging.Formatter(f"%(asctime)s %(levelname)s {who}: %(message)s")
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - only where it is asked for

    return JsonFormatter(
        ["levelname", "name", "message"], rename_fields={"levelname": "level", "name": "logger"}, timestamp="time"
    )


def log_to(level: str, *handlers: logging.Handler, formatter: logging.Formatter, facts: Facts) -> None:
    """Log to these handlers alone, from that level on."""
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(facts)
    logging.basicConfig(level=level.upper(), handlers=handlers)
