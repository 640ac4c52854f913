"""What jobs are told that fail for no fault of their own, or by numbers out of bounds."""

import logging

from attractor_server.engine.work import Job, Record
from attractor_server.errors import MemoryNotFound, OwnerChanged, ServerError

logger = logging.getLogger(__name__)


def fault(error: Exception, what: str, count: int) -> ServerError:
    """Logs an error that nobody foresaw, and says what clients are told of it."""
    logger.error("a %s over %d memories failed", what, count, exc_info=error)
    return ServerError("the engine failed; the server's log says why")


def diverged(job: Job, loop: str) -> str:
    """The message of a job whose loop left finite numbers."""
    return (
        f"the {loop} loop on memory {job.memory.name!r} left finite numbers and changed nothing: "
        "the values are far from those the model was trained on; check their scale"
    )


def gone(memory: Record) -> ServerError:
    """What becomes of a job whose memory went away before it was done."""
    if memory.moved:
        return OwnerChanged(f"memory {memory.name!r} went to another shard; try again in a moment")
    return MemoryNotFound(f"memory {memory.name!r} was deleted while the request was waiting")
