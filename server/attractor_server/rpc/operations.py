"""Operations on patterns as they cross the wire: frames of a session that ask for each, and frames that answer it.

Another operation is one more entry of `OPERATIONS`, with its frames in the proto and a factory of its jobs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.fields import Layout
from attractor_server.memories.model_card import ModelCard
from attractor_server.memories.outcomes import Erased, Outcome, Recalled, Recognized, Stored
from attractor_server.rpc import codec
from attractor_server.rpc.item_requests import read_on_conflict, read_unless_similar
from attractor_server.rpc.messages import read_kept
from attractor_server.rpc.validation import check_matches
from attractor_server.scheduling.jobs import Job, Operation

Encoder: TypeAlias = Callable[[Sequence[int], Layout | None, Sequence[Any]], Iterator[pb.SessionResponse]]
"""Makes frames of outcomes that may share them, by their request ids, and the layout of the values"""

SMALL_BYTES = 64
"""Room in a frame for an outcome of a few numbers"""


@dataclass(frozen=True, kw_only=True)
class WireOperation:
    """One operation: how its requests are read from a frame, passed on to another shard, and answered."""

    operation: Operation
    """Its value is the field of SessionRequest"""
    answer: str
    """Field of SessionResponse"""
    outcome: type[Outcome]
    make_job: Callable[..., Job]
    encode: Encoder
    per_frame: Sequence[str] = ()
    """Fields of the request frame that hold for all requests in it"""
    per_request: Sequence[str] = ()
    """Fields with an entry for each request, beside the columns"""
    per_pattern: Sequence[str] = ()
    """Fields with an entry for each pattern, or none at all"""
    partial: bool = False
    """Patterns may have missing values"""
    masked: bool = False
    """Whether a mask of known values has a meaning"""
    options: Callable[[Any, ModelCard], Mapping[str, Any]] | None = None
    """Arguments of `make_job` that follow from the request frame and the model; None for none"""
    share: Callable[[Any, Layout | None], tuple[object, ...]] | None = None
    """Key in which outcomes must agree to share a frame; None where all do"""
    size_bytes: Callable[[Any], int] | None = None
    """Room that an outcome takes of a frame, at most; None for that of a few numbers"""

    @cached_property
    def fields(self) -> Sequence[str]:
        """Fields of the request frame beside the columns."""
        return (*self.per_frame, *self.per_request, *self.per_pattern)


def encode_stores(ids: Sequence[int], layout: Layout | None, stored: Sequence[Stored]) -> Iterator[pb.SessionResponse]:
    """Yield the frame that answers these stores."""
    versions, totals = [one.version for one in stored], [one.patterns for one in stored]
    answer = pb.SessionResponse(stored=pb.StoredFrame(request_ids=ids, versions=versions, totals=totals))
    if any(one.existing for one in stored):
        answer.stored.existing.extend([encode_existing(one) for one in stored])
    yield answer


def encode_existing(stored: Stored) -> pb.Existing:
    """Return the message of what was similar to a store's patterns."""
    return pb.Existing(similar=[one is not None for one in stored.existing], ids=[one or "" for one in stored.existing])


def encode_erases(ids: Sequence[int], layout: Layout | None, erased: Sequence[Erased]) -> Iterator[pb.SessionResponse]:
    """Yield the frame that answers these erases."""
    versions, totals = [one.version for one in erased], [one.patterns for one in erased]
    yield pb.SessionResponse(erased=pb.ErasedFrame(request_ids=ids, versions=versions, totals=totals))


def encode_recalls(
    ids: Sequence[int], layout: Layout | None, recalled: Sequence[Recalled]
) -> Iterator[pb.SessionResponse]:
    """Yield the frame that answers these queries, after one for each iterate of those with a trajectory."""
    assert layout is not None
    for request_id, one in zip(ids, recalled, strict=True):
        if one.iterates is not None:
            yield from _encode_trajectory(request_id, one, layout)
    answer = pb.SessionResponse()  # filled in place: a message given to another one's constructor is copied whole
    frame = answer.recalled
    frame.request_ids.extend(ids)
    frame.patterns.extend([len(one.values) for one in recalled])
    codec.encode(layout, np.concatenate([one.values for one in recalled]), into=frame.tensors)
    codec.encode_scores(recalled, into=frame.scores)
    codec.encode_matches(layout, recalled, into=frame.matches)
    yield answer


def _encode_trajectory(request_id: int, recalled: Recalled, layout: Layout) -> Iterator[pb.SessionResponse]:
    if recalled.iterates is None or recalled.energies is None:
        return
    for step, (iterate, energy) in enumerate(zip(recalled.iterates, recalled.energies, strict=True)):
        answer = pb.SessionResponse()
        frame = answer.trajectory
        frame.request_id, frame.step = request_id, step
        frame.energy.extend(energy.tolist())
        codec.encode(layout, iterate, into=frame.tensors)
        yield answer


def encode_recognitions(
    ids: Sequence[int], layout: Layout | None, recognized: Sequence[Recognized]
) -> Iterator[pb.SessionResponse]:
    """Yield the frame that answers these requests."""
    frame = pb.RecognizedFrame(
        request_ids=ids,
        patterns=[len(one.energy) for one in recognized],
        energy=np.concatenate([one.energy for one in recognized]).tolist(),
        delta_energy=np.concatenate([one.delta_energy for one in recognized]).tolist(),
        probability=[value for one in recognized for value in codec.encode_probabilities(one)],
        pages=codec.encode_pages(recognized),
    )
    yield pb.SessionResponse(recognized=frame)


def _store_options(frame: pb.StoreFrame, model: ModelCard) -> Mapping[str, Any]:
    on_conflict = read_on_conflict(frame.on_conflict, "store.on_conflict")
    similar = read_unless_similar(frame.unless_similar, on_conflict, model, "store.unless_similar")
    return {"on_conflict": on_conflict, "unless_similar": similar}


def _query_options(frame: pb.QueryFrame, model: ModelCard) -> Mapping[str, Any]:
    return {
        "steps": frame.steps or model.steps,
        "own_steps": not frame.steps,
        "trajectory": frame.trajectory,
        "pull": frame.pull_known,
        "matches": check_matches(frame.matches, match=frame.match, where="query.matches"),
        "kept": read_kept(frame.recall, "query.recall"),
    }


def _measure_recall(recalled: Recalled) -> int:
    size_bytes = recalled.values.nbytes + SMALL_BYTES * len(recalled.values)
    if (matches := recalled.matches) is not None:
        size_bytes += matches.values.nbytes
        size_bytes += sum(len(item.payload) + 4 * len(item.id) + 64 for item in matches.items)
    return size_bytes


def _share_recalls(recalled: Recalled, layout: Layout | None) -> tuple[object, ...]:
    """Return what frames of answers agree in: their matches are as many, and all with probabilities, or none."""
    matches = recalled.matches
    return Recalled, layout, None if matches is None else (matches.each, matches.probability is None)


OPERATIONS = (
    WireOperation(
        operation=Operation.STORE,
        answer="stored",
        outcome=Stored,
        make_job=Job.store,
        encode=encode_stores,
        per_frame=("on_conflict", "unless_similar"),
        per_request=("sequences",),
        per_pattern=("items",),
        options=_store_options,
        size_bytes=lambda stored: SMALL_BYTES + sum(4 * len(one or "") + 8 for one in stored.existing),
    ),
    WireOperation(
        operation=Operation.ERASE,
        answer="erased",
        outcome=Erased,
        make_job=Job.erase,
        encode=encode_erases,
        per_request=("sequences",),
    ),
    WireOperation(
        operation=Operation.QUERY,
        answer="recalled",
        outcome=Recalled,
        make_job=Job.query,
        encode=encode_recalls,
        per_frame=("steps", "trajectory", "pull_known", "match", "matches", "recall"),
        partial=True,
        masked=True,
        options=_query_options,
        share=_share_recalls,
        size_bytes=_measure_recall,
    ),
    WireOperation(
        operation=Operation.RECOGNIZE,
        answer="recognized",
        outcome=Recognized,
        make_job=Job.recognize,
        encode=encode_recognitions,
        per_frame=("recall",),
        partial=True,
        options=lambda frame, model: {"kept": read_kept(frame.recall, "recognize.recall")},
        share=lambda recognized, layout: (Recognized, recognized.probability is None),
        size_bytes=lambda recognized: 32 * len(recognized.energy),
    ),
)

BY_REQUEST = {one.operation.value: one for one in OPERATIONS}
"""By the field of SessionRequest"""

BY_ANSWER = {one.answer: one for one in OPERATIONS}
"""By the field of SessionResponse"""

BY_OUTCOME: dict[type[object], WireOperation] = {one.outcome: one for one in OPERATIONS}
