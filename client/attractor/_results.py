"""Results of requests, decoded from frames, and the results of split requests joined."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from attractor._errors import ServerFault
from attractor._payloads import decode_payload
from attractor._types import (
    EraseResult,
    Familiarity,
    Floats,
    Integers,
    Matches,
    ModelInfo,
    Recall,
    StoreResult,
    Trajectory,
)
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1.memories_pb2 import Item

Number = TypeVar("Number", np.float32, np.uint32)
Written = TypeVar("Written", StoreResult, EraseResult)

_NO_ENERGIES: Floats = np.empty((0, 0), np.float32)


@dataclass(eq=False, slots=True)  # not frozen: that would double what it costs to make one
class RecallSlice:
    """Result of one query request: some columns of its frame, which the requests of that share and only read."""

    frame: "RecallFrame"
    rows: slice
    iterates: Mapping[str, Floats] = field(default_factory=dict)
    """(steps + 1, rows, *shape); empty unless asked for"""
    energies: Floats = field(default_factory=lambda: _NO_ENERGIES)
    """(steps + 1, rows)"""


@dataclass(eq=False, slots=True)
class RecallFrame:
    """Results of the queries of one frame, side by side."""

    fields: Mapping[str, Floats]
    """(rows, *shape)"""
    scores: Floats
    """(3, rows): before, after, delta"""
    counts: Integers
    """(2, rows): steps, page"""
    matches: "MatchFrame | None" = None
    probability: Floats | None = None
    """(rows,)"""


@dataclass(eq=False, slots=True)
class MatchFrame:
    """The matches of one frame, side by side."""

    fields: Mapping[str, Floats]
    """(rows·each, *shape)"""
    distances: Floats
    """(rows·each,)"""
    items: Sequence[Item]
    """(rows·each,)"""
    probability: Floats | None
    """(rows·each,)"""
    each: int
    """Matches of each row"""


@dataclass(eq=False, slots=True)
class RecognizeSlice:
    """Result of one recognize request: some columns of its frame."""

    scores: Floats  # (2, rows): energy, delta; (3, rows) with the probability
    pages: Integers  # (rows)


Piece: TypeAlias = StoreResult | EraseResult | RecallSlice | RecognizeSlice
"""Result of one request; of a call that was split there are several"""
_Piece = TypeVar("_Piece", bound=Piece)
_Entry = TypeVar("_Entry")


def decode_writes(frame: pb.StoredFrame | pb.ErasedFrame, result: type[Written]) -> Iterator[tuple[int, Written]]:
    """Yield request ids with their results.

    Raises:
        ServerFault: the columns differ in length.
    """
    if not len(frame.request_ids) == len(frame.versions) == len(frame.totals):
        raise ServerFault("stored or erased: the columns differ in length")
    for request_id, version, total in zip(frame.request_ids, frame.versions, frame.totals, strict=True):
        yield request_id, result(version, total)


def decode_stores(frame: pb.StoredFrame) -> Iterator[tuple[int, StoreResult]]:
    """Yield request ids with their results, and what was similar to their patterns.

    Raises:
        ServerFault: the columns differ in length.
    """
    if not frame.existing:
        yield from decode_writes(frame, StoreResult)
        return
    if len(frame.existing) != len(frame.request_ids):
        raise ServerFault("stored: the columns differ in length")
    for (request_id, result), found in zip(decode_writes(frame, StoreResult), frame.existing, strict=True):
        if len(found.similar) != len(found.ids):
            raise ServerFault("stored.existing: the columns differ in length")
        names = tuple([name if similar else None for name, similar in zip(found.ids, found.similar, strict=True)])
        yield request_id, replace(result, existing=names)


def decode_recalls(frame: pb.RecalledFrame) -> Iterator[tuple[int, RecallSlice]]:
    """Yield request ids with their results.

    Raises:
        ServerFault: the columns do not fit together.
    """
    total = sum(frame.patterns)
    fields = {tensor.field: decode_tensor(tensor, total) for tensor in frame.tensors}
    score = frame.scores
    scores = _stack_scores(total, score.energy_before, score.energy_after, score.delta_energy)
    counts = np.stack([_decode_counts(score.steps, total, "steps"), _decode_pages(score.pages, total)])
    probability = _stack_scores(total, score.probability)[0] if score.probability else None
    whole = RecallFrame(fields, scores, counts, _decode_matches(frame.matches, total), probability)
    for request_id, rows in _iter_slices(frame.request_ids, frame.patterns):
        yield request_id, RecallSlice(whole, rows)


def decode_recognitions(frame: pb.RecognizedFrame) -> Iterator[tuple[int, RecognizeSlice]]:
    """Yield request ids with their results.

    Raises:
        ServerFault: the columns do not fit together.
    """
    total = sum(frame.patterns)
    scores = _stack_scores(total, frame.energy, frame.delta_energy, *filter(None, [frame.probability]))
    pages = _decode_pages(frame.pages, total)
    for request_id, rows in _iter_slices(frame.request_ids, frame.patterns):
        yield request_id, RecognizeSlice(scores[:, rows], pages[rows])


def attach_trajectory(piece: RecallSlice, frames: Sequence[pb.TrajectoryFrame]) -> RecallSlice:
    """Return the result with its trajectory, from frames in the order of steps; unchanged without frames.

    Raises:
        ServerFault: the frames do not fit the result.
    """
    if not frames:
        return piece
    rows = piece.rows.stop - piece.rows.start
    by_step = [{tensor.field: decode_tensor(tensor, rows) for tensor in frame.tensors} for frame in frames]
    if any(step.keys() != piece.frame.fields.keys() for step in by_step):
        raise ServerFault("trajectory: the fields are not those of the answer")
    iterates = {name: np.stack([step[name] for step in by_step]) for name in piece.frame.fields}
    return replace(piece, iterates=iterates, energies=_stack_scores(rows, *(frame.energy for frame in frames)))


def join_writes(kind: type[Written], pieces: Sequence[Piece], model: ModelInfo, single: bool) -> Written:
    """Return the result of a write, which has one request.

    Raises:
        ServerFault: it is one of another operation.
    """
    return _check_kind(pieces, kind)[0]


def join_recalls(pieces: Sequence[Piece], model: ModelInfo, single: bool) -> Recall:
    """Return copies of the results of a query side by side, which keep no frame alive.

    Raises:
        ServerFault: there are results of another operation.
    """
    recalls = _check_kind(pieces, RecallSlice)
    alphabets = model._alphabets  # noqa: SLF001 - private to the SDK, not to the class
    if single and not recalls[0].iterates and recalls[0].frame.matches is None:
        frame, row = recalls[0].frame, recalls[0].rows.start
        own = {name: values[row].copy() for name, values in frame.fields.items()}
        scores, counts = frame.scores[:, row].copy(), frame.counts[:, row].copy()
        one = (scores[0, ...], scores[1, ...], scores[2, ...], counts[0, ...], counts[1, ...])
        return Recall(own, *one, None, alphabets, None, _join_probability(recalls, single=single))
    names = recalls[0].frame.fields
    fields = {name: _join([piece.frame.fields[name][piece.rows] for piece in recalls], 0, single) for name in names}
    scores = _join([piece.frame.scores[:, piece.rows] for piece in recalls], 1, single)
    counts = _join([piece.frame.counts[:, piece.rows] for piece in recalls], 1, single)
    before, after, delta, steps, page = map(np.asarray, (*scores, *counts))
    trajectory, match = _join_trajectories(recalls, single=single), _join_matches(recalls, alphabets, single=single)
    probability = _join_probability(recalls, single=single)
    return Recall(fields, before, after, delta, steps, page, trajectory, alphabets, match, probability)


def join_recognitions(pieces: Sequence[Piece], model: ModelInfo, single: bool) -> Familiarity:
    """Return the results of a recognize side by side.

    Raises:
        ServerFault: there are results of another operation.
    """
    recognitions = _check_kind(pieces, RecognizeSlice)
    energy, delta, *probability = map(np.asarray, _join([piece.scores for piece in recognitions], 1, single))
    page = _join([piece.pages for piece in recognitions], 0, single)
    return Familiarity(energy, delta, page, *probability)


def _check_kind(pieces: Sequence[Piece], kind: type[_Piece]) -> Sequence[_Piece]:
    fitting = [piece for piece in pieces if isinstance(piece, kind)]
    if len(fitting) < len(pieces):
        raise ServerFault(f"the server answered with something else than {kind.__name__}")
    return fitting


def _join_probability(pieces: Sequence[RecallSlice], *, single: bool) -> Floats | None:
    """Join probabilities, which are no numbers where the network answered alone; None where it did so for all."""
    found = [
        np.full(piece.rows.stop - piece.rows.start, np.nan, np.float32) if told is None else told[piece.rows]
        for piece in pieces
        for told in [piece.frame.probability]
    ]
    joint = _join(found, 0, single)
    return None if np.isnan(joint).all() else np.asarray(joint)


def _join_matches(pieces: Sequence[RecallSlice], alphabets: Mapping[str, str], *, single: bool) -> Matches | None:
    found = [(piece.frame.matches, piece.rows) for piece in pieces if piece.frame.matches is not None]
    if not found:
        return None
    each = found[0][0].each
    parts = [(frame, slice(rows.start * each, rows.stop * each)) for frame, rows in found]
    items = [item for frame, rows in parts for item in frame.items[rows]]
    told = [frame.probability[rows] for frame, rows in parts if frame.probability is not None]

    def join(columns: list[Floats]) -> Floats:
        joint = columns[0] if len(columns) == 1 else np.concatenate(columns)
        several = joint.reshape(-1, each, *joint.shape[1:]) if each > 1 else joint
        return np.asarray(_join([several], 0, single))

    return Matches(
        fields={name: join([frame.fields[name][rows] for frame, rows in parts]) for name in found[0][0].fields},
        distance=join([frame.distances[rows] for frame, rows in parts]),
        id=_group([item.id for item in items], each, single),
        payload=_group([decode_payload(item) for item in items], each, single),
        alphabets=alphabets,
        probability=join(told) if len(told) == len(parts) else None,
    )


def _group(column: list[_Entry], each: int, single: bool) -> "_Entry | list[_Entry] | list[list[_Entry]]":
    """Return one entry for a single pattern with one match, a list for several of either, or lists of lists."""
    if each == 1:
        return column[0] if single else column
    grouped = [column[start : start + each] for start in range(0, len(column), each)]
    return grouped[0] if single else grouped


def _join_trajectories(pieces: Sequence[RecallSlice], *, single: bool) -> Trajectory | None:
    if not pieces[0].iterates:
        return None
    length = max(len(piece.energies) for piece in pieces)
    iterates = {
        name: _join([_repeat_last(piece.iterates[name], length) for piece in pieces], 1, single)
        for name in pieces[0].iterates
    }
    energies = _join([_repeat_last(piece.energies, length) for piece in pieces], 1, single)
    return Trajectory(iterates, energies)


def _repeat_last(iterates: Floats, length: int) -> Floats:  # a piece that settled earlier stays where it is
    missing = length - len(iterates)
    return np.concatenate([iterates, np.repeat(iterates[-1:], missing, axis=0)]) if missing else iterates


def _decode_matches(matches: pb.Matches, rows: int) -> MatchFrame | None:
    if not matches.tensors:
        return None
    each = matches.each or 1
    total = rows * each
    fields = {tensor.field: decode_tensor(tensor, total) for tensor in matches.tensors}
    items = list(matches.items) or [Item()] * total
    if len(items) != total:
        raise ServerFault(f"matches.items: saw {len(items)} entries; expected {total}")
    probability = _stack_scores(total, matches.probability)[0] if matches.probability else None
    return MatchFrame(fields, _stack_scores(total, matches.distances)[0], items, probability, each)


def decode_tensor(tensor: pb.Tensor, rows: int) -> Floats:
    """Return the values of a field, (rows, *shape).

    Raises:
        ServerFault: the tensor has another form.
    """
    shape = tuple(tensor.shape)
    if tensor.dtype != pb.DTYPE_FLOAT32 or shape[:1] != (rows,) or len(tensor.data) != 4 * math.prod(shape):
        seen = f"dtype {tensor.dtype}, shape {shape}, {len(tensor.data)} bytes"
        raise ServerFault(f"tensor {tensor.field!r}: saw {seen}; expected float32 of {rows} patterns")
    return np.frombuffer(tensor.data, "<f4").reshape(shape)


def _stack_scores(rows: int, *columns: Sequence[float]) -> Floats:
    if any(len(column) != rows for column in columns):
        raise ServerFault(f"scores: saw {[len(column) for column in columns]} entries; expected {rows} each")
    return np.array(columns, np.float32).reshape(len(columns), rows)


def _decode_counts(column: Sequence[int], rows: int, name: str) -> Integers:
    if len(column) != rows:
        raise ServerFault(f"scores.{name}: saw {len(column)} entries; expected {rows}")
    return np.array(column, np.uint32)


def _decode_pages(column: Sequence[int], rows: int) -> Integers:
    return _decode_counts(column, rows, "pages") if column else np.zeros(rows, np.uint32)


def _iter_slices(request_ids: Sequence[int], patterns: Sequence[int]) -> Iterator[tuple[int, slice]]:
    if len(request_ids) != len(patterns):
        raise ServerFault(f"patterns: saw {len(patterns)} entries; expected {len(request_ids)}")
    start = 0
    for request_id, count in zip(request_ids, patterns, strict=True):
        yield request_id, slice(start, start + count)
        start += count


def _join(parts: Sequence[NDArray[Number]], axis: int, single: bool) -> NDArray[Number]:
    """Return a copy of the parts side by side, or of the only row of a single one."""
    if single:
        return np.asarray(parts[0].take(0, axis))
    return np.concatenate(parts, axis)
