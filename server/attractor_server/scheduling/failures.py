"""Errors of jobs that fail for no fault of their own, or by numbers out of bounds."""

import logging

from attractor_server.errors import (
    CannotPull,
    MemoryNotFound,
    ModelChanged,
    ModelGone,
    OwnerChanged,
    ServerError,
    quote,
)
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.model_card import ModelCard
from attractor_server.scheduling.jobs import Job

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0


class _Once(logging.Filter):
    """Leaves out a line that was just written: many members of a batch may have failed with the same."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the line."""
        line = record.getMessage()
        self._written = {one: at_s for one, at_s in self._written.items() if record.created - at_s < _AGAIN_S}
        if line in self._written:
            return False
        self._written[line] = record.created
        return True


logger.addFilter(_Once())


def log_fault(error: Exception, what: str, count: int) -> ServerError:
    """Log an unforeseen error, and return the error that clients get in its place."""
    logger.error("a %s over %d memories failed: %s: %s", what, count, type(error).__name__, quote(str(error)))
    logger.debug("which came so", exc_info=error)
    return ServerError("the engine failed; the server's log says why")


def describe_divergence(job: Job, loop: str) -> str:
    """Return the message of a job whose loop left finite numbers."""
    return (
        f"the {loop} loop on memory {job.memory.name!r} left finite numbers and changed nothing: "
        "the values are far from those the model was trained on; check their scale"
    )


def memory_gone_error(memory: MemoryRecord) -> ServerError:
    """Return the error of a job whose memory went away before it was done."""
    if memory.moved:
        return OwnerChanged(f"memory {memory.name!r} went to another shard; try again in a moment")
    return MemoryNotFound(f"memory {memory.name!r} was deleted while the request was waiting")


def model_gone_error(memory: MemoryRecord) -> ServerError:
    """Return the error of a job whose memory is of a model that is not served."""
    return ModelGone(
        f"memory {memory.name!r} is of model {memory.model} ({memory.model_digest}), which this server does not have: "
        "put its file in the folder of --models and start again, or rebuild the memory"
    )


def find_misfit(job: Job, model: ModelCard) -> ServerError | None:
    """Return why this model cannot compute the job, which was checked against the one that its memory had before."""
    if job.layout is not None and job.layout is not model.layout and job.layout != model.layout:
        return ModelChanged(
            f"memory {job.memory.name!r} became one of model {model.name} while the request waited, and the values "
            f"sent are of other fields; expected fields {', '.join(field.name for field in model.layout.fields)}: "
            "look the memory up and send the request again"
        )
    if job.pull and not model.pulls:
        return CannotPull(
            f"memory {job.memory.name!r} became one of model {model.name} while the request waited, which cannot pull "
            "known entries towards the cue; hold them"
        )
    return None
