"""Rows of memories of many pages: the choice of a page for a cue, and its cost against one page."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attractor_server.energy.familiarity import choice_of, evidence, misfit
from attractor_server.energy.frame import weights_of
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.training.baselines import look_up
from attractor_server.training.distortions import Cues, distort
from attractor_server.training.evaluation.bench import TEST_SEED, Bench, Probe, cue_name
from attractor_server.training.evaluation.scores import Method, Row, row_of
from attractor_server.training.recipe import CueTable
from attractor_server.training.validation import fill_gaps, find_frames, recall, write_memories

PATTERNS, MEMORIES = 1024, 8
"""Patterns of one memory, where the data have as many; and the most memories"""

POOL = 1 << 14

CHOSEN, TOLD = "pages, the chosen one", "pages, the right one told"


def page_rows(bench: Bench) -> Iterator[Row]:
    """Yield for each kind of cue the chosen page, the right page, and the stored item nearest to the cue."""
    wide = replace(bench, memories=min(MEMORIES, bench.memories))
    for table in bench.recipe.cues:
        yield from _rows(wide, table)


def page_answers(bench: Bench, probe: Probe) -> tuple[Tensor, Tensor, Tensor]:
    """Return the answers of chosen and of right pages (memories, cues, values), and the chosen pages (memories, cues).

    Each page is written with all of its patterns, in the groups in which a server writes them.
    """
    found = [_memory(bench, probe, number) for number in range(len(probe.patterns))]
    chosen, told, pages = (torch.stack(parts) for parts in zip(*found, strict=True))
    return chosen, told, pages


def _rows(bench: Bench, table: CueTable) -> Iterator[Row]:
    capacity = bench.recipe.capacity
    probe = _probe(bench, table)
    if probe.count < 2 * capacity:
        return
    chosen, told, pages = page_answers(bench, probe)
    right = float((pages == torch.arange(probe.count) // capacity).float().mean())
    size = bench.model.page_bytes * probe.count // capacity
    methods = {CHOSEN: (chosen, right), TOLD: (told, 1.0)}
    for name, (answers, share) in methods.items():
        row = row_of(bench, probe, Method(name=name, family="memory", bytes=size), answers, table="pages")
        yield replace(row, right_page=share)
    nearest = Method(name="nearest stored", family="rival", bytes=4 * probe.patterns[0].numel())
    yield row_of(bench, probe, nearest, look_up(probe.filled_cues, probe.patterns), table="pages")


def _probe(bench: Bench, table: CueTable) -> Probe:
    """Return whole pages of different patterns, drawn from all test patterns, whatever their class."""
    generator = torch.Generator().manual_seed(TEST_SEED)
    pool = bench.tested.pool(POOL)
    count = min(PATTERNS, len(pool)) // bench.recipe.capacity * bench.recipe.capacity
    patterns = pool[torch.rand(bench.memories, len(pool), generator=generator).argsort(1)[:, :count]]
    cues = distort(patterns, bench.tested.layout, [table], generator, drifts=bench.tested.drifts)
    return Probe(
        cue=cue_name(table), patterns=patterns, cues=cues, unseen=cues, filled_cues=fill_gaps(bench.model, cues)
    )


def _memory(bench: Bench, probe: Probe, number: int) -> tuple[Tensor, Tensor, Tensor]:
    patterns = probe.patterns[number].unflatten(0, (-1, bench.recipe.capacity))  # (pages, patterns, values)
    cues = Cues(probe.cues.values[number], probe.cues.known[number])
    pages = write_memories(bench.model, patterns, bench.model.write_chunk, framed=True)
    right = torch.arange(len(cues.values)) // bench.recipe.capacity
    answers, chosen = _choose_pages(bench, pages, cues)
    return answers, _read(bench, pages, right, cues), chosen


def _choose_pages(bench: Bench, pages: Tensors, cues: Cues) -> tuple[Tensor, Tensor]:
    """Return the answers (cues, values) and their pages (cues,), as a server chooses them."""
    model, count = bench.model, len(next(iter(pages.values())))
    frames = find_frames(model, pages)
    x = model.encode(cues.values.expand(count, -1, -1), frames)
    with torch.no_grad():
        energy = model.network.energy(model.parameters.slow, weights_of(pages), x)
    calibration = model.calibration_of(framed=frames is not None)
    choice = choice_of(energy, torch.full((count,), bench.recipe.capacity), calibration)
    first, second = (_read(bench, pages, page, cues) for page in (choice.page, choice.rival))
    ahead = evidence(torch.zeros(()), misfit(cues.values, first)) >= evidence(choice.lead, misfit(cues.values, second))
    stays = ahead | ~choice.contested | cues.known.any(-1)
    return first.where(stays[:, None], second), choice.page.where(stays, choice.rival)


def _read(bench: Bench, pages: Tensors, choice: Tensor, cues: Cues) -> Tensor:
    """Return the answer to each cue by its page, (cues, values)."""
    answers = torch.empty_like(cues.values)
    for page in choice.unique().tolist():
        mine = choice == page
        part = Cues(cues.values[None, mine], cues.known[None, mine])
        answers[mine] = recall(bench.model, {name: value[page, None] for name, value in pages.items()}, part)[0]
    return answers
