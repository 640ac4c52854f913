"""What becomes of jobs: writes that are numbered are counted once, and outcomes are told apart."""

import asyncio

from attractor_server.engine.work import Answer, Erased, Job, Outcome, Stored
from attractor_server.errors import Cancelled, ServerError
from attractor_server.rpc.checks import check_sequence
from attractor_server.storage.catalog import Applied


def counted(job: Job, client_id: str, sequence: int) -> Answer | None:
    """The first answer to that store or erase, or None after entering the job as its first sending.

    A job that fails is struck from the ledger, so that a repeat is tried afresh.

    Raises:
        InvalidRequest: no number can be so high.
        SequenceForgotten: the number is too old to tell.
    """
    if not sequence:
        return None
    check_sequence(sequence, "sequence")
    ledger = job.memory.ledger(client_id)
    if (first := ledger.find(sequence)) is not None:
        return _answered(first) if isinstance(first, Applied) else first
    ledger.enter(sequence, job.future)
    job.client_id, job.sequence = client_id, sequence

    def settle(future: Answer) -> None:
        if isinstance(outcome := outcome_of(future), Stored | Erased):
            ledger.settle(sequence, Applied(outcome.version, outcome.patterns, isinstance(outcome, Erased)))
        else:
            ledger.strike(sequence)

    job.future.add_done_callback(settle)
    return None


def _answered(applied: Applied) -> Answer:
    answer: Answer = asyncio.get_running_loop().create_future()
    answer.set_result((Erased if applied.erases else Stored)(applied.version, applied.patterns))
    return answer


def outcome_of(answer: Answer) -> Outcome | ServerError:
    """What a settled answer holds."""
    error = answer.exception()
    if error is None:
        return answer.result()
    return error if isinstance(error, ServerError) else Cancelled("the request was dropped")


def written(outcome: Outcome) -> Stored | Erased:
    """The outcome of a store or an erase."""
    assert isinstance(outcome, Stored | Erased)
    return outcome
