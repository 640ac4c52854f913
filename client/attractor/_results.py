"""Frames of answers, taken apart by request, and the pieces of a split request put together again."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from attractor._errors import ServerFault
from attractor._payloads import payload_of
from attractor._types import Familiarity, Floats, Integers, Matches, ModelInfo, Recall, Trajectory
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1.memories_pb2 import Item

Number = TypeVar("Number", np.float32, np.uint32)

_NO_ENERGIES: Floats = np.empty((0, 0), np.float32)


@dataclass(eq=False, slots=True)  # not frozen: that would double what it costs to make one
class Recalled:
    """The answer to one query request: some columns of what all of its frame have in common, and read only."""

    frame: "RecalledFrame"
    rows: slice
    iterates: Mapping[str, Floats] = field(default_factory=dict)
    """(steps + 1, rows, *shape); empty unless asked for"""
    energies: Floats = field(default_factory=lambda: _NO_ENERGIES)
    """(steps + 1, rows)"""


@dataclass(eq=False, slots=True)
class RecalledFrame:
    """The answers to the requests of one frame, side by side."""

    fields: Mapping[str, Floats]
    """(rows, *shape)"""
    scores: Floats
    """(3, rows): before, after, delta"""
    counts: Integers
    """(2, rows): steps, page"""
    matches: "MatchedFrame | None" = None


@dataclass(eq=False, slots=True)
class MatchedFrame:
    """The kept patterns nearest to those of one frame, side by side."""

    fields: Mapping[str, Floats]
    """(rows, *shape)"""
    distances: Floats
    """(rows,)"""
    items: Sequence[Item]
    """(rows,)"""


@dataclass(eq=False, slots=True)
class Recognized:
    """The answer to one recognize request: some columns of its frame's."""

    scores: Floats  # (2, rows): energy, delta; (3, rows) with the probability
    pages: Integers  # (rows)


def recalled(frame: pb.RecalledFrame) -> Iterator[tuple[int, Recalled]]:
    """Request ids with their answers.

    Raises:
        ServerFault: the columns do not fit together.
    """
    total = sum(frame.patterns)
    fields = {tensor.field: _values(tensor, total) for tensor in frame.tensors}
    score = frame.scores
    scores = _scores(total, score.energy_before, score.energy_after, score.delta_energy)
    counts = np.stack([_whole(score.steps, total, "steps"), _pages(score.pages, total)])
    whole = RecalledFrame(fields, scores, counts, _matched(frame.matches, total))
    for request_id, rows in _rows(frame.request_ids, frame.patterns):
        yield request_id, Recalled(whole, rows)


def _matched(matches: pb.Matches, rows: int) -> MatchedFrame | None:
    if not matches.tensors:
        return None
    fields = {tensor.field: _values(tensor, rows) for tensor in matches.tensors}
    items = list(matches.items) or [Item()] * rows
    if len(items) != rows:
        raise ServerFault(f"matches.items: saw {len(items)} entries; expected {rows}")
    return MatchedFrame(fields, _scores(rows, matches.distances)[0], items)


def recognized(frame: pb.RecognizedFrame) -> Iterator[tuple[int, Recognized]]:
    """Request ids with their answers.

    Raises:
        ServerFault: the columns do not fit together.
    """
    total = sum(frame.patterns)
    scores = _scores(total, frame.energy, frame.delta_energy, *filter(None, [frame.probability]))
    pages = _pages(frame.pages, total)
    for request_id, rows in _rows(frame.request_ids, frame.patterns):
        yield request_id, Recognized(scores[:, rows], pages[rows])


def with_iterates(answer: Recalled, frames: Sequence[pb.TrajectoryFrame]) -> Recalled:
    """The answer with its trajectory, from frames in the order of steps.

    Raises:
        ServerFault: the frames do not fit the answer.
    """
    if not frames:
        return answer
    rows = answer.rows.stop - answer.rows.start
    by_step = [{tensor.field: _values(tensor, rows) for tensor in frame.tensors} for frame in frames]
    if any(step.keys() != answer.frame.fields.keys() for step in by_step):
        raise ServerFault("trajectory: the fields are not those of the answer")
    iterates = {name: np.stack([step[name] for step in by_step]) for name in answer.frame.fields}
    return replace(answer, iterates=iterates, energies=_scores(rows, *(frame.energy for frame in frames)))


def recall(pieces: Sequence[Recalled], model: ModelInfo, *, single: bool) -> Recall:
    """What the caller gets, the pieces of a split query side by side; of nothing but the caller's own memory."""
    alphabets = model._alphabets  # noqa: SLF001 - private to the SDK, not to the class
    if single and not pieces[0].iterates and pieces[0].frame.matches is None:
        frame, row = pieces[0].frame, pieces[0].rows.start
        own = {name: values[row].copy() for name, values in frame.fields.items()}
        scores, counts = frame.scores[:, row].copy(), frame.counts[:, row].copy()
        one = (scores[0, ...], scores[1, ...], scores[2, ...], counts[0, ...], counts[1, ...])
        return Recall(own, *one, None, alphabets)
    names = pieces[0].frame.fields
    fields = {name: _join([piece.frame.fields[name][piece.rows] for piece in pieces], 0, single) for name in names}
    scores = _join([piece.frame.scores[:, piece.rows] for piece in pieces], 1, single)
    counts = _join([piece.frame.counts[:, piece.rows] for piece in pieces], 1, single)
    before, after, delta, steps, page = map(np.asarray, (*scores, *counts))
    trajectory, match = _trajectory(pieces, single=single), _matches(pieces, alphabets, single=single)
    return Recall(fields, before, after, delta, steps, page, trajectory, alphabets, match)


def familiarity(pieces: Sequence[Recognized], *, single: bool) -> Familiarity:
    """What the caller gets, the pieces of a split request side by side."""
    energy, delta, *probability = map(np.asarray, _join([piece.scores for piece in pieces], 1, single))
    page = _join([piece.pages for piece in pieces], 0, single)
    return Familiarity(energy, delta, page, *probability)


def _matches(pieces: Sequence[Recalled], alphabets: Mapping[str, str], *, single: bool) -> Matches | None:
    found = [(piece.frame.matches, piece.rows) for piece in pieces if piece.frame.matches is not None]
    if not found:
        return None
    names = found[0][0].fields
    items = [item for frame, rows in found for item in frame.items[rows]]
    ids, payloads = [item.id for item in items], [payload_of(item) for item in items]
    return Matches(
        fields={name: _join([frame.fields[name][rows] for frame, rows in found], 0, single) for name in names},
        distance=_join([frame.distances[rows] for frame, rows in found], 0, single),
        id=ids[0] if single else ids,
        payload=payloads[0] if single else payloads,
        alphabets=alphabets,
    )


def _trajectory(pieces: Sequence[Recalled], *, single: bool) -> Trajectory | None:
    if not pieces[0].iterates:
        return None
    length = max(len(piece.energies) for piece in pieces)
    iterates = {
        name: _join([_lengthened(piece.iterates[name], length) for piece in pieces], 1, single)
        for name in pieces[0].iterates
    }
    energies = _join([_lengthened(piece.energies, length) for piece in pieces], 1, single)
    return Trajectory(iterates, energies)


def _lengthened(iterates: Floats, length: int) -> Floats:  # a piece that settled earlier stays where it is
    missing = length - len(iterates)
    return np.concatenate([iterates, np.repeat(iterates[-1:], missing, axis=0)]) if missing else iterates


def _values(tensor: pb.Tensor, rows: int) -> Floats:
    shape = tuple(tensor.shape)
    if tensor.dtype != pb.DTYPE_FLOAT32 or shape[:1] != (rows,) or len(tensor.data) != 4 * math.prod(shape):
        seen = f"dtype {tensor.dtype}, shape {shape}, {len(tensor.data)} bytes"
        raise ServerFault(f"tensor {tensor.field!r}: saw {seen}; expected float32 of {rows} patterns")
    return np.frombuffer(tensor.data, "<f4").reshape(shape)


def _scores(rows: int, *columns: Sequence[float]) -> Floats:
    if any(len(column) != rows for column in columns):
        raise ServerFault(f"scores: saw {[len(column) for column in columns]} entries; expected {rows} each")
    return np.array(columns, np.float32).reshape(len(columns), rows)


def _whole(column: Sequence[int], rows: int, name: str) -> Integers:
    if len(column) != rows:
        raise ServerFault(f"scores.{name}: saw {len(column)} entries; expected {rows}")
    return np.array(column, np.uint32)


def _pages(column: Sequence[int], rows: int) -> Integers:
    return _whole(column, rows, "pages") if column else np.zeros(rows, np.uint32)


def _rows(request_ids: Sequence[int], patterns: Sequence[int]) -> Iterator[tuple[int, slice]]:
    if len(request_ids) != len(patterns):
        raise ServerFault(f"patterns: saw {len(patterns)} entries; expected {len(request_ids)}")
    start = 0
    for request_id, count in zip(request_ids, patterns, strict=True):
        yield request_id, slice(start, start + count)
        start += count


def _join(parts: Sequence[NDArray[Number]], axis: int, single: bool) -> NDArray[Number]:
    """A copy of the parts side by side, or of the only row of a single one."""
    if single:
        return np.asarray(parts[0].take(0, axis))
    return np.concatenate(parts, axis)
