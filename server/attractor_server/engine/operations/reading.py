"""Reading and looking: each pattern is read, or looked at, in the one page of its memory that was chosen for it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from attractor_server.energy.frame import Framing
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.transform import Hold, Pull
from attractor_server.engine import compute
from attractor_server.engine.batch import (
    PART_READS,
    MemoryBatch,
    ModelState,
    PaddedBatch,
    Results,
    bucket,
    chunks,
    concatenate,
    run_to_end,
)
from attractor_server.engine.bisection import by_halves
from attractor_server.engine.operations.merge import Answer, merge_answers
from attractor_server.engine.operations.route import ALL, PageQuery, Selection, route_cues
from attractor_server.errors import ReadDiverged, ServerError
from attractor_server.memories.outcomes import Booleans, Directions, Floats, Integers, Recalled, Recognized
from attractor_server.memories.page import Page
from attractor_server.scheduling.failures import describe_divergence, log_fault
from attractor_server.scheduling.jobs import Job

Answers: TypeAlias = Iterator[tuple[Job, Selection, Answer]]


def run_program(  # noqa: PLR0913
    state: ModelState,
    batches: Sequence[MemoryBatch],
    program: Callable[[ModelState, Sequence[PageQuery]], Answers],
    *,
    limit: int,
    contests: bool,
    entered: dict[Job, Tensor] | None = None,
) -> Results:
    """Yield the answers of a program to at most `limit` pages at a time, with stops between.

    What is known by then of cues in the frames of all pages, (pages, n, entries), is put into `entered`.
    """
    asked = yield from route_cues(state, batches, contests=contests)
    if entered is not None:
        for routes in [row.routes for row in asked.rows if row.routes is not None]:
            entered.update({job: one.entered for job, one in routes.items() if one.entered is not None})
    yield from asked.failed.items()
    pieces: dict[Job, list[tuple[Selection, Answer]]] = {}
    for part in group_rows(asked.rows, limit, cut=batches[0].cut):
        for job, some, answer in run_rows(state, part, program):
            if some is ALL:
                yield job, answer
            else:
                pieces.setdefault(job, []).append((some, answer))
        yield None
    for job, found in pieces.items():
        yield job, merge_answers(job, found, asked.contests.get(job))


def _size(row: PageQuery) -> int:
    return row.size


def group_rows(rows: Sequence[PageQuery], limit: int, *, cut: bool) -> Iterator[Sequence[PageQuery]]:
    """Group rows of about as many patterns, apart those of pages with frames and without."""
    for framed in (False, True):
        some = [row for row in rows if row.framed is framed]
        yield from _cut_rows(some, limit) if cut else chunks(some, _size, limit)


def _cut_rows(rows: Sequence[PageQuery], limit: int) -> Iterator[Sequence[PageQuery]]:
    """Cut the rows into pieces of few patterns, and group pieces that have few together."""
    alike: dict[int, list[PageQuery]] = {}
    for row in _cut(rows):
        alike.setdefault(bucket(row.size), []).append(row)
    for size, group in alike.items():
        yield from chunks(group, _size, min(limit, max(1, PART_READS // size)))


def _cut(rows: Iterable[PageQuery]) -> Iterator[PageQuery]:
    """Yield the rows, none of more than PART_READS patterns."""
    for row in rows:
        if row.size <= PART_READS:
            yield row
            continue
        for job, some, count in row.parts:
            if count <= PART_READS:
                yield replace(row, parts=[(job, some, count)], size=count)
                continue
            places = np.arange(count) if isinstance(some, slice) else some
            for start in range(0, count, PART_READS):
                piece = places[start : start + PART_READS]
                yield replace(row, parts=[(job, piece, len(piece))], size=len(piece))


def run_rows(
    state: ModelState, rows: Sequence[PageQuery], program: Callable[[ModelState, Sequence[PageQuery]], Answers]
) -> Answers:
    """Run a program on rows whose pages the bank brings; rows that fail do so alone."""
    failed: dict[Page, ServerError] = {}
    answers: list[tuple[Job, Selection, Answer]] = []

    def work(part: Sequence[PageQuery]) -> None:
        failed.update(state.bank.bring([row.page for row in part]))
        if ready := [row for row in part if row.page not in failed]:
            with state.recorder.span("read"):
                answers.extend(list(program(state, ready)))

    def fail(part: Sequence[PageQuery], error: Exception) -> None:
        failed.update(dict.fromkeys([row.page for row in part], log_fault(error, "reading", len(part))))

    run_to_end(by_halves(rows, work, fail))
    yield from answers
    yield from ((job, some, failed[row.page]) for row in rows if row.page in failed for job, some, _ in row.parts)


@dataclass(frozen=True)
class _AskedPages:
    """Pages that are read: a bank's tensors and places in it, or copies of the pages."""

    tensors: Tensors
    places: Tensor | None
    """(pages,) int64; None for copies"""
    frames: Framing | None

    @classmethod
    def of(cls, state: ModelState, rows: Sequence[PageQuery], lent: Tensors | None, count: int) -> "_AskedPages":
        """Locate the rows' pages in the lent tensors of the bank, or copy them, filled up to so many."""
        pages = [row.page for row in rows]
        if lent is None:
            tensors, places = state.copy_brought_pages(pages, count), None
        else:
            tensors, places = lent, state.bank.locate(pages)
        return cls(tensors, places, state.find_frames(rows[0].framed, tensors, places))


def read(state: ModelState, rows: Sequence[PageQuery], *, compared: Callable[[Job], bool] = lambda _: False) -> Answers:
    """Read the cues of these rows; those of jobs that are `compared` come with what kept patterns are compared with."""
    model, first = state.model, rows[0].parts[0][0]
    lent = None if first.pull or first.trajectory else state.in_place_tensors
    grid = PaddedBatch([row.size for row in rows], rows=state.count_rows(len(rows)) if lent is None else len(rows))
    asked = _AskedPages.of(state, rows, lent, grid.shape[0])
    # The cues, and what is known of them
    x, given, known = _encode(state, rows, grid, asked.frames), None, None
    hold: Hold | None = None
    pull: Pull | None = None
    if any(job.known is not None for row in rows for job, _, _ in row.parts):
        given = _gather_values(rows)
        known = _gather_known(rows, given)
        clamped = state.to_device(grid.spread(given)), state.to_device(grid.spread(known))
        if first.pull:
            pull = model.pull(*clamped, asked.frames)
        else:
            hold = model.hold(*clamped, asked.frames)
    # The reading loop
    if asked.places is not None:
        reading = compute.read_in_place(model, asked.tensors, asked.places, x, hold=hold, steps=first.steps)
    else:
        reading = compute.read_pages(
            model, asked.tensors, x, hold=hold, pull=pull, steps=first.steps, trajectory=first.trajectory
        )
    # The answers, in user units and cut by job
    held = None if first.pull else known
    values = _put_back(given, held, grid.collect(model.decode(reading.pattern, asked.frames)))
    before, after, delta = map(grid.collect, (reading.energy_before, reading.energy_after, reading.delta_energy))
    iterates = energies = None
    if reading.iterates is not None and reading.energies is not None:
        decoded = torch.stack([model.decode(one, asked.frames) for one in reading.iterates])
        iterates = _put_back(given, held, grid.collect(decoded, 1))
        energies = grid.collect(reading.energies, 1)
    finite = np.isfinite(values).all(1) & np.isfinite(after)
    fine = bool(finite.all())
    looked = any(compared(job) for row in rows for job, _, _ in row.parts)
    told = values if known is not None or not model.is_invertible else None
    seen = _look_along(state, grid, asked.frames, x, reading.pattern, told) if looked else None
    for job, some, part, pages in _locate_parts(rows):
        recalled = Recalled(
            values=values[part],
            energy_before=before[part],
            energy_after=after[part],
            delta_energy=delta[part],
            steps=job.steps,
            iterates=None if iterates is None else iterates[:, part],
            energies=None if energies is None else energies[:, part],
            pages=pages,
            directions=Directions(seen.cue[part], seen.reading[part]) if seen and compared(job) else None,
        )
        yield job, some, recalled if fine or finite[part].all() else ReadDiverged(describe_divergence(job, "reading"))


def _look_along(  # noqa: PLR0913
    state: ModelState,
    grid: PaddedBatch,
    frames: Framing | None,
    cues: Tensor,
    patterns: Tensor,
    values: Floats | None,
) -> Directions:
    """Return cues and readings as a posterior compares them; with `values` (n, d), readings as these are told."""
    if values is not None:
        patterns = state.model.encode(state.to_device(grid.spread(values)), frames)
    return Directions(grid.collect(cues), grid.collect(patterns))


def recognize_alone(state: ModelState, rows: Sequence[PageQuery]) -> Answers:
    """Recognize the patterns of these rows, as if a stored one were as likely in any page of its memory."""
    model, grid = state.model, state.pad([row.size for row in rows])
    asked = _AskedPages.of(state, rows, state.in_place_tensors, grid.shape[0])
    x = _encode(state, rows, grid, asked.frames)
    if asked.places is not None:
        energies, gaps = compute.recognize_in_place(model, asked.tensors, asked.places, x)
    else:
        energies, gaps = compute.recognize_pages(model, asked.tensors, x)
    energy, delta, probability = grid.collect(energies), grid.collect(gaps), None
    if (calibration := model.calibration_of(framed=rows[0].framed)) is not None:
        stored = state.make_column([row.page.patterns for row in rows], grid.shape[0])
        among = np.repeat(np.log([row.among for row in rows]), grid.counts)
        given = _count_given(state, rows, grid) if rows[0].framed else None
        logit = grid.collect(calibration.logit(gaps, stored, given)) - among
        with np.errstate(over="ignore"):  # exp may be infinite: then the probability is 0
            probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    finite = np.isfinite(energy)
    for job, some, part, pages in _locate_parts(rows):
        recognized = Recognized(
            energy=energy[part],
            delta_energy=delta[part],
            probability=None if probability is None else probability[part],
            pages=pages,
        )
        yield job, some, recognized if finite[part].all() else ReadDiverged(describe_divergence(job, "reading"))


def _count_given(state: ModelState, rows: Sequence[PageQuery], grid: PaddedBatch) -> Tensor:
    """Return the share of each pattern's values that are given, (rows, width)."""
    given: Floats = np.isfinite(_gather_values(rows)).mean(1, dtype=np.float32)
    return state.to_device(grid.spread(given))


def _gather_values(rows: Sequence[PageQuery]) -> Floats:
    """Gather the values of all parts, row after row: (patterns, d)."""
    return concatenate([job.values[some] for row in rows for job, some, _ in row.parts if job.values is not None])


def _encode(state: ModelState, rows: Sequence[PageQuery], grid: PaddedBatch, frames: Framing | None) -> Tensor:
    """Bring the cues of all parts into network units, (rows, width, entries): those that were routed are half so."""
    if any(row.routes is None for row in rows):
        return state.model.encode(state.to_device(grid.spread(_gather_values(rows))), frames)
    parts = [(row.routes[job].x, some) for row in rows if row.routes is not None for job, some, _ in row.parts]
    cues = [x if isinstance(some, slice) else x[torch.from_numpy(some)] for x, some in parts]
    x = grid.spread_tensor(cues[0] if len(cues) == 1 else torch.cat(cues))
    return state.model.transform.whiten(x, frames) if rows[0].framed else x


def _gather_known(rows: Sequence[PageQuery], given: Floats) -> Booleans:
    """Gather which entries are known, (patterns, d), like the values that are given."""
    parts = [part for row in rows for part in row.parts]
    nothing = np.zeros(given.shape, np.bool_)
    return concatenate([nothing[:count] if job.known is None else job.known[some] for job, some, count in parts])


def _put_back(given: Floats | None, known: Booleans | None, values: Floats) -> Floats:  # (…, n, d)
    """Put back those values that are held, exactly: the way to network units and back may round."""
    return values if given is None or known is None else np.where(known, given, values)


def _locate_parts(rows: Sequence[PageQuery]) -> Iterator[tuple[Job, Selection, slice, Integers | None]]:
    """Yield each part, its place among the patterns of all, and the number of its page; None where that is 0."""
    parts = [(job, some, count, row.number) for row in rows for job, some, count in row.parts]
    ends = accumulate(count for _, _, count, _ in parts)
    for (job, some, count, number), end in zip(parts, ends, strict=True):
        yield job, some, slice(end - count, end), np.full(count, number) if number else None
