"""Spilling: pages that have no room in a bank wait in a file or in the backend store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.page_image import unpack_image
from attractor_server.engine.pages.bank import Bank
from attractor_server.engine.pages.precision import Precision, WeightFormat, form_of, page_bytes
from attractor_server.engine.pages.spill_file import PageFile
from attractor_server.engine.pages.stacked_weights import PageBytes
from attractor_server.errors import StoreDamaged
from attractor_server.memories.page import Floats, Page
from attractor_server.memories.records import StoredPage
from attractor_server.memories.store import MemoryStore
from attractor_server.recorder import SILENT, Recorder


@dataclass(frozen=True, slots=True)
class _Expected:
    """A page that is in the backend store."""

    memory: int
    number: int
    anew: Callable[[StoredPage], Tensors]
    """Its weights by its entries, each (1, *shape)"""


class SpillTier:
    """Reads expected pages from the backend store, by their images there; every other page is in the file below."""

    def __init__(
        self, below: PageFile, store: MemoryStore | None, *, initial: Mapping[str, Tensor], form: WeightFormat
    ) -> None:
        """Take `initial`, the tensors that every page starts from, each (*shape); `form` is the bank's."""
        self._below = below
        self._store = store
        self._initial = initial
        self._form = form
        self._expected: dict[int, _Expected] = {}
        """By the id of the page"""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._below.size_bytes

    def close(self) -> None:
        """Remove the file, with the pages in it; the backend store has its own."""
        self._below.close()

    def expect(self, page: Page, memory: int, anew: Callable[[StoredPage], Tensors]) -> None:
        """Count the page as stored from now on; it is read from the backend store when it is needed.

        If its image is damaged then, `anew` makes its weights from its entries, each (1, *shape).
        """
        self._expected[page.id] = _Expected(memory, page.number, anew)
        page.stored = True

    def save(self, page: int, image: PageBytes, kept: Floats | None) -> None:
        """Keep the page in the file."""
        self._below.save(page, image, kept)
        self._expected.pop(page, None)

    def load(self, page: int, image: PageBytes) -> Floats | None:
        """Fill `image` with the weights, and return the patterns.

        Raises:
            ServerError: what was saved cannot be read, or is damaged.
        """
        if self._store is None or (place := self._expected.get(page)) is None:
            return self._below.load(page, image)
        stored = self._store.page(place.memory, place.number)
        fast = place.anew(stored) if stored.image is None and stored.entries else self._weights(place, stored)
        for part, packed in zip(image, self._pack(fast), strict=True):
            part[:] = packed
        return None

    def drop(self, page: int) -> None:
        """Forget the page here; what the backend store has of it stays."""
        self._expected.pop(page, None)
        self._below.drop(page)

    def _weights(self, place: _Expected, stored: StoredPage) -> Tensors:
        """Return the tensors of a page's image, each (1, *shape)."""
        content = b"" if stored.image is None else stored.image.content
        if (tensors := unpack_image(content, self._initial)) is None:
            found = "none" if stored.image is None else f"one of {len(content)} bytes"
            raise StoreDamaged(
                f"memory {place.memory}, page {place.number}: expected an image of its model's, found {found}"
            )
        return tensors

    def _pack(self, fast: Tensors) -> Sequence[memoryview]:
        """Return the tensors as the bank keeps them: the memory of each tensor, in the order of names."""
        packed = sorted(self._form.pack(fast).items())
        return [tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data for _, tensor in packed]


_DIGEST_LETTERS = 12


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Size and precision of an engine's banks, and the place of pages that they have no room for."""

    precision: Precision = "float32"
    folder: Path | None = None
    """For a file of pages for each model, of this engine alone; None: files without a name, in the system's folder for
    temporary ones"""


def bank_for(
    model: Model,
    *,
    limit_bytes: int,
    residency: Residency,
    store: MemoryStore | None = None,
    recorder: Recorder = SILENT,
) -> tuple[Bank, SpillTier]:
    """Make an empty bank for pages of that model, and the spill tier behind it: a file, and what the store has."""
    initial, precision = model.initial_page, residency.precision
    below = PageFile(
        None if residency.folder is None else residency.folder / _file_name(model),
        image_bytes=page_bytes(precision, initial),
        kept_values=model.capacity * model.layout.size,
    )
    shelf = SpillTier(below, store, initial=initial, form=form_of(precision, initial))
    return Bank(initial, limit_bytes=limit_bytes, store=shelf, precision=precision, recorder=recorder), shelf


def _file_name(model: Model) -> str:
    """Keep the tier of a model apart by its digest: names may be taken twice, digests are not."""
    digest = model.digest.rpartition(":")[2]
    return f"{model.name}-{digest[:_DIGEST_LETTERS]}.pages"
