"""Numbered writes: a repeat gets the first answer."""

import asyncio
import zlib

from attractor_server.errors import SequenceForgotten
from attractor_server.memories.ledger import Applied
from attractor_server.memories.outcomes import Erased, Outcome, OutcomeFuture, Stored, outcome_of
from attractor_server.rpc.validation import check_sequence
from attractor_server.scheduling.jobs import Job


def counted(job: Job, client_id: str, sequence: int) -> OutcomeFuture | None:
    """The first answer to that store or erase, or None after entering the job as its first sending.

    A job that fails is struck from the ledger, so that a repeat is tried afresh.

    Raises:
        InvalidRequest: no number can be so high.
        SequenceForgotten: the number is too old to tell.
        NumberReused: another request of the client to the memory had that number.
    """
    if not sequence:
        return None
    check_sequence(sequence, "sequence")
    ledger, digest = job.memory.ledger(client_id), _digest(job)
    if (first := ledger.find(sequence, digest)) is not None:
        return _answered(first) if isinstance(first, Applied) else first
    if sequence <= ledger.elsewhere and not job.memory.id:
        raise SequenceForgotten(
            f"sequence: {sequence} may have been applied before, which is no longer known of a client that was "
            f"silent while many others wrote; expected more than {ledger.elsewhere}"
        )
    ledger.enter(sequence, job.future, digest)
    job.number(client_id, sequence, digest, looks_back=sequence <= ledger.elsewhere)

    def settle(future: OutcomeFuture) -> None:
        if isinstance(outcome := outcome_of(future), Stored | Erased):
            erases = isinstance(outcome, Erased)
            ledger.settle(sequence, Applied(outcome.version, outcome.patterns, erases, digest))
        else:
            ledger.strike(sequence)

    job.future.add_done_callback(settle)
    return None


def _digest(job: Job) -> int:
    """Return a number, not 0, that repeats of a store or an erase have and other requests hardly ever."""
    digest = zlib.crc32(job.operation.value.encode())
    if job.values is not None:
        digest = zlib.crc32(job.values.data, digest)
    for item in job.items:
        digest = zlib.crc32(b"%d %d " % (-1 if item.empty else len(item.payload), item.json), digest)
        digest = zlib.crc32(item.payload, zlib.crc32(item.id.encode(), digest))
    return digest or 1


def _answered(applied: Applied) -> OutcomeFuture:
    answer: OutcomeFuture = asyncio.get_running_loop().create_future()
    answer.set_result((Erased if applied.erases else Stored)(applied.version, applied.patterns))
    return answer


def written(outcome: Outcome) -> Stored | Erased:
    """The outcome of a store or an erase."""
    assert isinstance(outcome, Stored | Erased)
    return outcome
