"""Replaying: a page is written anew from its entries, and compared with the image of its weights."""

import math
from collections.abc import Collection, Iterable

import torch

from attractor_server.energy.frame import means_of, weights_of
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.page_image import unpack_image
from attractor_server.engine.batch import ModelState
from attractor_server.engine.operations.restore import replay
from attractor_server.engine.pages.precision import Precision
from attractor_server.engine.pages.spill import Residency, bank_for
from attractor_server.memories.memory import record_of
from attractor_server.memories.page import Page
from attractor_server.memories.records import PageRow, StoredMemory, StoredPage

BANK_BYTES = 64 << 20


class Replay:
    """Writes pages of these models, in banks of its own."""

    def __init__(self, models: Iterable[Model], *, precision: Precision) -> None:
        """Take `precision`, in which the images' bank kept weights."""
        residency = Residency(precision=precision)
        self._states = {
            model.digest: ModelState(model, *bank_for(model, limit_bytes=BANK_BYTES, residency=residency))
            for model in models
        }

    @torch.no_grad()
    def measure_distance(self, memory: StoredMemory, row: PageRow, stored: StoredPage) -> float | None:
        """Return the largest difference of a weight or a frame's mean, in parts of the largest that writing made.

        `stored` has all entries. None for what cannot be compared: a page without an image, one that does not follow
        from its entries, as after an erase, or of a model that is not here.

        Raises:
            StoreDamaged: the entries, written anew, left finite numbers.
        """
        state, image = self._states.get(memory.model_digest), stored.image
        if state is None or image is None:
            return None
        entries = [entry for entry in stored.entries if entry.version <= image.version]
        if sum(len(entry.values) for entry in stored.entries) != row.patterns or not entries:
            return None
        page = Page(number=row.number)
        start = state.model.initial_page
        replay(state, record_of(memory), page, StoredPage(image=None, entries=entries))
        anew, kept = unpack_image(state.bank.image(page), start), unpack_image(image.content, start)
        state.bank.release(page)
        if kept is None or anew is None:
            return math.inf
        return max(_relative(anew, kept, start, weights_of(start)), _relative(anew, kept, start, means_of(start)))


def _relative(anew: Tensors, kept: Tensors, start: Tensors, names: Collection[str]) -> float:
    """Return the largest difference of these tensors, in parts of the largest one that writing made."""
    gap = max((float((anew[name] - kept[name]).abs().max()) for name in names), default=0.0)
    made = max((float((anew[name] - start[name]).abs().max()) for name in names), default=0.0)
    return gap / max(made, torch.finfo(torch.float32).tiny)
