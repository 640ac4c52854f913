"""The bank: the fast weights of pages of one model, stacked on one device."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attractor_server.engine.page import INITIAL, Page
from attractor_server.errors import BankFull, ServerError


class Bank:
    """Fast weights of many pages, allocated once. Owns its tensors; hands out copies."""

    def __init__(self, initial: dict[str, Tensor], *, limit_bytes: int) -> None:
        page_bytes = sum(tensor.nbytes for tensor in initial.values())
        self.capacity = max(1, limit_bytes // page_bytes)
        """Pages that can be in the bank at the same time"""
        self._device = next(iter(initial.values())).device
        # The system backs these pages with memory as they are first written.
        self._weights = {
            name: torch.empty((self.capacity + 1, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
            for name, tensor in initial.items()
        }
        for name, tensor in initial.items():
            self._weights[name][INITIAL] = tensor
        self._free = list(range(self.capacity, INITIAL, -1))
        self._resident: OrderedDict[Page, None] = OrderedDict()

    def bring(self, pages: Sequence[Page]) -> Mapping[Page, ServerError]:
        """Brings pages into the bank, no more of them than `capacity`; those that could not come, with the cause."""
        for page in pages:
            if page.place != INITIAL:
                self._resident.move_to_end(page)
        return {}

    def enter(self, pages: Sequence[Page]) -> Tensor:
        """Where these pages, no more of them than `capacity`, are in the bank now: (pages,) int64.

        Raises:
            ServerError: the first cause in `bring`.
        """
        for error in self.bring(pages).values():
            raise error
        return torch.tensor([page.place for page in pages], dtype=torch.int64, device=self._device)

    def gather(self, places: Tensor) -> dict[str, Tensor]:  # places (pages,) int64
        """Copies of the fast weights at these places, each (pages, *shape)."""
        return {name: weights.index_select(0, places) for name, weights in self._weights.items()}

    def publish(self, pages: Sequence[Page], fast: Mapping[str, Tensor]) -> Mapping[Page, ServerError]:
        """Puts new fast weights, each (pages, *shape), in these pages, which must differ.

        Those that nothing could be put in, with the cause; the others hold their new weights.
        """
        failed: dict[Page, ServerError] = {}
        taken: list[Page] = []
        for page in pages:
            if page.place == INITIAL:
                if not self._free:
                    failed[page] = BankFull(
                        f"the bank holds {self.capacity} pages of this model and is full: "
                        "delete memories, add shards, or raise --bank-memory-mib"
                    )
                    continue
                page.place = self._free.pop()
                taken.append(page)
            self._resident[page] = None
            self._resident.move_to_end(page)
        rows = [row for row, page in enumerate(pages) if page not in failed]
        try:
            self._put([pages[row].place for row in rows], rows, fast)
        except BaseException:
            for page in taken:
                self.release(page)
            raise
        for row in rows:
            pages[row].stored = False
        return failed

    def release(self, page: Page) -> None:
        """Forgets the page, here and in the store: its place is free, and it reads as one never written."""
        if page.place != INITIAL:
            for weights in self._weights.values():
                weights[page.place].zero_()
            self._free.append(page.place)
            del self._resident[page]
        page.place, page.stored, page.patterns, page.kept = INITIAL, False, 0, None

    def _put(self, places: Sequence[int], rows: Sequence[int], fast: Mapping[str, Tensor]) -> None:
        if not rows:
            return
        at, of = (torch.tensor(numbers, dtype=torch.int64, device=self._device) for numbers in (places, rows))
        for name, weights in self._weights.items():
            weights.index_copy_(0, at, fast[name].index_select(0, of).to(weights.dtype))
