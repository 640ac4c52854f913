"""Merging of the answers that several pages of a memory give to one job."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_server.energy.familiarity import evidence, misfit
from attractor_server.engine.operations.route import Routes, Selection
from attractor_server.errors import ServerError
from attractor_server.memories.outcomes import Directions, Integers, Recalled, Recognized
from attractor_server.scheduling.jobs import Job

Answer: TypeAlias = Recalled | Recognized | ServerError

Order: TypeAlias = NDArray[np.int64]

Scalar = TypeVar("Scalar", bound=np.generic)


def merge_answers(job: Job, pieces: Sequence[tuple[Selection, Answer]], chosen: Routes | None) -> Answer:
    """Merge the answers to a job whose patterns different pages answered; an error, if one of them failed."""
    for _, answer in pieces:
        if isinstance(answer, ServerError):
            return answer
    places = np.concatenate([some for some, _ in pieces])
    recalled = [answer for _, answer in pieces if isinstance(answer, Recalled)]
    recognized = [answer for _, answer in pieces if isinstance(answer, Recognized)]
    order = np.argsort(places) if chosen is None else _decide(job, places, recalled, chosen)
    return _merge_recalls(recalled, order) if recalled else _merge_recognitions(recognized, order)


def _decide(job: Job, places: Order, pieces: Sequence[Recalled], chosen: Routes) -> Order:
    """Return the order of the answers that count: of two to one pattern, the one with more evidence."""
    assert job.values is not None
    pages = np.concatenate([_page_numbers(one) for one in pieces])
    behind = np.where(pages == chosen.page[places], 0, chosen.lead[places])
    misfits = misfit(
        torch.from_numpy(job.values[places]), torch.from_numpy(np.concatenate([one.values for one in pieces]))
    )
    order = np.lexsort((-evidence(torch.from_numpy(behind), misfits).numpy(), places))
    return order[np.diff(places[order], prepend=-1) > 0]


def _merge_recalls(pieces: Sequence[Recalled], order: Order) -> Recalled:
    iterates = [one.iterates for one in pieces if one.iterates is not None]
    energies = [one.energies for one in pieces if one.energies is not None]
    seen = [one.directions for one in pieces if one.directions is not None]
    return Recalled(
        values=_pick([one.values for one in pieces], order),
        energy_before=_pick([one.energy_before for one in pieces], order),
        energy_after=_pick([one.energy_after for one in pieces], order),
        delta_energy=_pick([one.delta_energy for one in pieces], order),
        steps=pieces[0].steps,
        iterates=_pick(iterates, order, 1) if iterates else None,
        energies=_pick(energies, order, 1) if energies else None,
        pages=_pick([_page_numbers(one) for one in pieces], order),
        directions=_merge_directions(seen, order) if seen else None,
    )


def _merge_directions(pieces: Sequence[Directions], order: Order) -> Directions:
    return Directions(_pick([one.cue for one in pieces], order), _pick([one.reading for one in pieces], order))


def _merge_recognitions(pieces: Sequence[Recognized], order: Order) -> Recognized:
    probability = [one.probability for one in pieces if one.probability is not None]
    return Recognized(
        energy=_pick([one.energy for one in pieces], order),
        delta_energy=_pick([one.delta_energy for one in pieces], order),
        probability=_pick(probability, order) if probability else None,
        pages=_pick([_page_numbers(one) for one in pieces], order),
    )


def _page_numbers(one: Recalled | Recognized) -> Integers:
    return np.zeros(len(one.delta_energy), np.int64) if one.pages is None else one.pages


def _pick(arrays: Sequence[NDArray[Scalar]], order: Order, axis: int = 0) -> NDArray[Scalar]:
    return np.concatenate(arrays, axis).take(order, axis)
