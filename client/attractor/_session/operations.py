"""Table of the operations on patterns: their frames, and how each is encoded, decoded and joined."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

from attractor._errors import InvalidRequest
from attractor._payloads import encode_on_conflict
from attractor._results import (
    decode_recalls,
    decode_recognitions,
    decode_stores,
    decode_writes,
    join_recalls,
    join_recognitions,
    join_writes,
)
from attractor._session.request import Operation, Request, RequestSpec
from attractor._types import EraseResult, Familiarity, Recall, StoreResult
from attractor_proto.names import MATCHES_LIMIT, STEPS_LIMIT
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1.memories_pb2 import Item

_RECALLS: Mapping[bool | None, memories_pb2.Recall.ValueType] = {
    None: memories_pb2.RECALL_UNSPECIFIED,
    True: memories_pb2.RECALL_POSTERIOR,
    False: memories_pb2.RECALL_NETWORK,
}


def _encode_store(message: pb.SessionRequest, requests: Sequence[Request]) -> pb.RequestColumns:
    message.store.on_conflict = requests[0].batch_key.spec.on_conflict
    message.store.unless_similar = requests[0].batch_key.spec.unless_similar
    message.store.sequences.extend([request.sequence for request in requests])
    if any(request.packed.items for request in requests):
        nothing = Item()
        for request in requests:
            message.store.items.extend(request.packed.items or [nothing] * request.rows)
    return message.store.columns


def _encode_erase(message: pb.SessionRequest, requests: Sequence[Request]) -> pb.RequestColumns:
    message.erase.sequences.extend([request.sequence for request in requests])
    return message.erase.columns


def _encode_query(message: pb.SessionRequest, requests: Sequence[Request]) -> pb.RequestColumns:
    spec, query = requests[0].batch_key.spec, message.query
    query.steps, query.trajectory, query.pull_known = spec.steps, spec.trajectory, spec.pull
    query.match, query.matches = spec.matches > 0, spec.matches if spec.matches > 1 else 0
    query.recall = _RECALLS[spec.kept]
    return query.columns


def _encode_recognize(message: pb.SessionRequest, requests: Sequence[Request]) -> pb.RequestColumns:
    message.recognize.recall = _RECALLS[requests[0].batch_key.spec.kept]
    return message.recognize.columns


STORE: RequestSpec[StoreResult] = RequestSpec(
    operation=Operation(
        name="store",
        writes=True,
        response="stored",
        encode=_encode_store,
        decode=lambda message: decode_stores(message.stored),
        join=partial(join_writes, StoreResult),
    )
)
ERASE: RequestSpec[EraseResult] = RequestSpec(
    operation=Operation(
        name="erase",
        writes=True,
        response="erased",
        encode=_encode_erase,
        decode=lambda message: decode_writes(message.erased, EraseResult),
        join=partial(join_writes, EraseResult),
    )
)
QUERY: RequestSpec[Recall] = RequestSpec(
    operation=Operation(
        name="query",
        writes=False,
        response="recalled",
        encode=_encode_query,
        decode=lambda message: decode_recalls(message.recalled),
        join=join_recalls,
    )
)
RECOGNIZE: RequestSpec[Familiarity] = RequestSpec(
    operation=Operation(
        name="recognize",
        writes=False,
        response="recognized",
        encode=_encode_recognize,
        decode=lambda message: decode_recognitions(message.recognized),
        join=join_recognitions,
    )
)
DECODERS = {spec.operation.response: spec.operation.decode for spec in (STORE, ERASE, QUERY, RECOGNIZE)}
"""By the field of `SessionResponse`"""


@lru_cache
def specify_store(on_conflict: str, unless_similar: float | None = None) -> RequestSpec[StoreResult]:
    """Return a store that treats ids which the memory has so, and leaves out what is similar.

    Raises:
        InvalidRequest: there is no such treatment, or no such cosine.
    """
    if unless_similar is not None and not 0 < unless_similar <= 1:
        raise InvalidRequest.of("unless_similar", f"saw {unless_similar!r}; expected a cosine above 0, at most 1")
    return RequestSpec(
        operation=STORE.operation, on_conflict=encode_on_conflict(on_conflict), unless_similar=unless_similar or 0.0
    )


@lru_cache
def specify_query(
    steps: int, *, trajectory: bool, hold: bool, matches: int = 0, kept: bool | None = None
) -> RequestSpec[Recall]:
    """Return a query of that many steps, which clamps known entries (`hold`) or pulls them towards the cue.

    Raises:
        InvalidRequest: more steps than a query may take, or more matches than it may ask for.
    """
    if not 0 <= matches <= MATCHES_LIMIT:
        raise InvalidRequest.of("match", f"saw {matches}; expected False, True, or 1 to {MATCHES_LIMIT}")
    if not 0 <= steps <= STEPS_LIMIT:
        raise InvalidRequest.of("steps", f"saw {steps}; expected 0 (the model's own number) to {STEPS_LIMIT}")
    return RequestSpec(
        operation=QUERY.operation, steps=steps, trajectory=trajectory, pull=not hold, matches=matches, kept=kept
    )


@lru_cache
def specify_recognize(kept: bool | None) -> RequestSpec[Familiarity]:
    """Return a recognition in which kept patterns take part, or not; None: as the memory is set."""
    return RequestSpec(operation=RECOGNIZE.operation, kept=kept)
