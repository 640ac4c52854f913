"""Replaying: a page is written anew from its entries, and compared with the image of its weights."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_server.energy.model import Model
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
        """Return the largest difference of a weight, in parts of the largest change that writing made.

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
        start = _weights(state.bank.image(page))
        replay(state, record_of(memory), page, StoredPage(image=None, entries=entries))
        anew, kept = _weights(state.bank.image(page)), _weights(image.content)
        state.bank.release(page)
        if kept.shape != anew.shape:
            return np.inf
        return float(np.abs(anew - kept).max() / max(float(np.abs(anew - start).max()), np.finfo(np.float32).tiny))


def _weights(image: bytes) -> NDArray[np.float32]:
    return np.frombuffer(image, "<f4")
