"""Memories that keep their patterns: evidence for a posterior over these, and recall by it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.posterior import (
    AGREEMENTS,
    Evidence,
    Posterior,
    answer,
    gather_evidence,
    item_probabilities,
    known_probability,
    mean_item,
)
from attractor_server.training.distortions import Cues
from attractor_server.training.validation import familiarity, find_frames, recall


@dataclass(frozen=True)
class Recalled:
    """Recall by a posterior."""

    answers: Tensor
    """(memories, cues, values)"""
    known: Tensor
    """Probability that the cue is of a kept pattern, (memories, cues)"""
    matches: Tensor
    """Probability of each kept pattern, (memories, cues, kept)"""


def given_values(cues: Cues) -> Tensor:
    """Return a mask of the values to compare: the known ones where a cue tells them, else all that are there."""
    return torch.where(cues.known.any(-1, keepdim=True), cues.known, ~cues.values.isnan())


def find_evidence(model: Model, fast: Tensors, kept: Tensor, cues: Cues, readings: Tensor) -> Evidence:
    """Compare cues, and what the network reads from them, with kept patterns (memories, n, values)."""
    posterior, frames, there = model.posterior, find_frames(model, fast), cues.to(model.device)
    with torch.no_grad():
        return gather_evidence(
            model.view(there.values, frames, given=given_values(there)),
            model.view(readings.to(model.device), frames),
            model.view(kept.to(model.device), frames),
            delta_energy=familiarity(model, fast, cues).to(model.device),
            used=(True,) * len(AGREEMENTS) if posterior is None else posterior.used,
            images=posterior is None or posterior.cases is not None,
        )


def recall_kept(model: Model, posterior: Posterior, fast: Tensors, kept: Tensor, cues: Cues) -> Recalled:
    """Recall from memories that keep the patterns (memories, n, values), in users' units."""
    first = recall(model, fast, cues)
    scores = posterior.scores(find_evidence(model, fast, kept, cues, first))
    encoding, own = model.encoding, cues.values.device
    items = encoding.encode(kept.to(model.device))
    again = recall(model, fast, _whole(encoding.decode(mean_item(scores, items)), cues))
    found = answer(scores, items, *(encoding.encode(x.to(model.device)) for x in (first, again)))
    answers = torch.where(cues.known, cues.values, encoding.decode(found).to(own))
    return Recalled(answers, known_probability(scores).to(own), item_probabilities(scores).to(own))


def _whole(values: Tensor, cues: Cues) -> Cues:
    """Return the values as cues of which what was known stays so."""
    there = values.to(cues.values.device)
    return Cues(torch.where(cues.known, cues.values, there), cues.known)
