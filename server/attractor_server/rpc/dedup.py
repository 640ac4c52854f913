"""Numbers of requests as they come by the wire: a numbered write or call is carried out once."""

from typing import Protocol

from attractor_proto.v1 import memories_pb2 as pb
from attractor_server.identity.access import Access
from attractor_server.memories.ledger import apply_once, digest_call, digest_write
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import OutcomeFuture
from attractor_server.memories.records import Call
from attractor_server.rpc.validation import check_client_id, check_sequence
from attractor_server.scheduling.jobs import Job


class Numbered(Protocol):
    """A request of a call that has a number."""

    @property
    def call(self) -> pb.Call:
        """Its number; empty for none."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - protobuf's name
        """Return the request as bytes."""


def find_client(memory: MemoryRecord, access: Access, client_id: str) -> str:
    """Return the client id under which that memory keeps the caller's numbers: the caller's alone.

    A memory that knows the plain id, from before there were identities, goes on under it: else a repeat of a write that
    was applied then would be applied once more.
    """
    scoped = access.scope(client_id)
    former = scoped != client_id and memory.knows_client(client_id) and not memory.knows_client(scoped)
    return client_id if former else scoped


def number_job(job: Job, access: Access, client_id: str, sequence: int) -> OutcomeFuture | None:
    """Return the first answer to that store or erase, or None after entering the job as its first sending.

    Raises:
        InvalidRequest: no number can be so high.
        SequenceForgotten: the number is too old to tell.
        NumberReused: another request of the client to the memory had that number.
    """
    if not sequence:
        return None
    check_sequence(sequence, "sequence")
    memory = job.memory
    client = find_client(memory, access, client_id)
    ledger = memory.ledger(client)
    digest = digest_write(_name_write(job), job.values, job.items)
    first = apply_once(ledger, sequence, digest, job.future, in_store=bool(memory.id))
    if first is None:
        job.number(client, sequence, digest, looks_back=sequence <= ledger.elsewhere)
    return first


def _name_write(job: Job) -> str:
    """Return what a write does beside its patterns."""
    name = job.operation.value if job.on_conflict == "append" else f"{job.operation.value} {job.on_conflict}"
    return f"{name} {job.unless_similar!r}" if job.unless_similar else name


def read_call(request: Numbered, kind: str, memory: str, access: Access) -> Call | None:
    """Return the number of a call and what it asks of the memory of that name, or None if it has no number.

    Raises:
        InvalidRequest: exactly one of client_id and sequence is set, or one of them is invalid.
    """
    call = request.call
    if not (call.client_id or call.sequence):
        return None
    check_client_id(call.client_id, "call.client_id")
    check_sequence(call.sequence, "call.sequence")
    digest = digest_call(request.SerializeToString(deterministic=True))
    return Call(access.scope(call.client_id), call.sequence, kind, memory, digest, call.client_id)
