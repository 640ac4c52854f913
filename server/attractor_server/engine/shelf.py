"""The shelf: where a bank's pages come from that have not been at hand since the start, and where others wait."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attractor_server.energy.networks.protocol import Tensors
from attractor_server.engine.bank import PageStore
from attractor_server.engine.forms import Form
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.page import Floats, Page
from attractor_server.engine.stack import Image
from attractor_server.errors import StoreDamaged
from attractor_server.storage.records import StoredPage


@dataclass(frozen=True, slots=True)
class _Expected:
    """A page that is in the backend store."""

    memory: int
    number: int
    anew: Callable[[StoredPage], Tensors]
    """Its weights by its entries, each (1, *shape)"""


class Shelf:
    """Reads expected pages from the backend store, by their images there; every other page is in the file below."""

    def __init__(self, below: PageStore, keeper: Keeper | None, *, initial: Mapping[str, Tensor], form: Form) -> None:
        """`initial` are the weights that every page starts from, each (*shape); `form` is the bank's."""
        self._below = below
        self._keeper = keeper
        self._initial = dict(sorted(initial.items()))
        self._form = form
        self._expected: dict[int, _Expected] = {}
        """By the id of the page"""

    def close(self) -> None:
        """Remove the file, with the pages in it; the backend store has its own."""
        self._below.close()

    def expect(self, page: Page, memory: int, anew: Callable[[StoredPage], Tensors]) -> None:
        """From now on the page counts as stored, and is read from the backend store when it is needed.

        If its image is damaged then, `anew` makes its weights from its entries, each (1, *shape).
        """
        self._expected[page.id] = _Expected(memory, page.number, anew)
        page.stored = True

    def save(self, page: int, image: Image, kept: Floats | None) -> None:
        """Keeps the page in the file."""
        self._below.save(page, image, kept)
        self._expected.pop(page, None)

    def load(self, page: int, image: Image) -> Floats | None:
        """Fills `image` with the weights, and returns the patterns.

        Raises:
            ServerError: what was saved cannot be read, or is damaged.
        """
        if self._keeper is None or (place := self._expected.get(page)) is None:
            return self._below.load(page, image)
        stored = self._keeper.page(place.memory, place.number)
        fast = place.anew(stored) if stored.image is None and stored.entries else self._weights(place, stored)
        for part, packed in zip(image, self._packed(fast), strict=True):
            part[:] = packed
        return None

    def drop(self, page: int) -> None:
        """Forgets the page here; what the backend store has of it is the journal's matter."""
        self._expected.pop(page, None)
        self._below.drop(page)

    def _weights(self, place: _Expected, stored: StoredPage) -> Tensors:
        """The float32 weights of a page's image, each (1, *shape)."""
        content = b"" if stored.image is None else stored.image.content
        if len(content) != sum(tensor.nbytes for tensor in self._initial.values()):
            found = "none" if stored.image is None else f"one of {len(content)} bytes"
            raise StoreDamaged(
                f"memory {place.memory}, page {place.number}: expected an image of its model's, found {found}"
            )
        flat = torch.frombuffer(bytearray(content), dtype=torch.float32)
        parts = flat.split([tensor.numel() for tensor in self._initial.values()])
        return {
            name: part.reshape(1, *tensor.shape).to(tensor.device)
            for (name, tensor), part in zip(self._initial.items(), parts, strict=True)
        }

    def _packed(self, fast: Tensors) -> Sequence[memoryview]:
        """Weights as the bank keeps them: the memory of each tensor, in the order of names."""
        packed = sorted(self._form.pack(fast).items())
        return [tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data for _, tensor in packed]
