"""The bank: a cache, on one device, of the fast weights of pages of one model."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

from torch import Tensor

from attractor_server.energy.page_image import pack_image
from attractor_server.engine.pages.precision import Float32, Precision, form_of, page_bytes
from attractor_server.engine.pages.stacked_weights import PageBytes, StackedWeights
from attractor_server.errors import BankFull, ServerError
from attractor_server.memories.page import INITIAL, Floats, Page
from attractor_server.recorder import SILENT, Recorder


class PageStore(Protocol):
    """Store of pages that the bank has no room for. One thread calls it."""

    def save(self, page: int, image: PageBytes, kept: Floats | None) -> None:
        """Keep the page's weights and patterns (n, d), in the place of what was kept of it before.

        Raises:
            ServerError: it could not; what was kept before may be lost.
        """

    def close(self) -> None:
        """Leave nothing of what was saved."""

    def load(self, page: int, image: PageBytes) -> Floats | None:
        """Fill `image` with the weights as they were saved, and return the patterns.

        Raises:
            ServerError: what was saved cannot be read, or is damaged.
        """

    def drop(self, page: int) -> None:
        """Forget the page, if it was saved."""


class Bank:
    """Fast weights of as many pages as its limit has room for; those used least recently leave for the store.

    Allocated once. Owns its tensors and hands out copies, as float32 whatever the precision they are kept in; what it
    keeps as float32 can be read in place as `tensors`.
    """

    def __init__(
        self,
        initial: Mapping[str, Tensor],
        *,
        limit_bytes: int,
        store: PageStore,
        precision: Precision = "float32",
        recorder: Recorder = SILENT,
    ) -> None:
        """Allocate a bank; `initial` are the tensors that every page starts from, each (*shape): weights and frames."""
        self.capacity = max(1, limit_bytes // page_bytes(precision, initial))
        """Pages that can be in the bank at the same time"""
        self._initial = initial
        self._form = form_of(precision, initial)
        self._page_bytes = page_bytes(precision, initial)
        first = self._form.pack({name: tensor[None] for name, tensor in initial.items()})
        self._stack = StackedWeights(first, self.capacity + 1)
        self._store = store
        self._recorder = recorder
        self._free = list(range(self.capacity, INITIAL, -1))
        self._resident: OrderedDict[Page, None] = OrderedDict()
        """Pages in the bank, the least recently used first"""
        self.loads = 0
        """Pages that came from the store"""
        self.evictions = 0
        """Pages that left for it"""

    @property
    def pages(self) -> int:
        """Pages that are in the bank."""
        return len(self._resident)

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, full or not."""
        return (self.capacity + 1) * self._page_bytes

    def bring(self, pages: Iterable[Page]) -> Mapping[Page, ServerError]:
        """Bring pages into the bank that are not there; return those that could not come, each with the cause.

        They all stay until the next call. What was never written needs no room.

        Raises:
            ValueError: a page is another bank's.
        """
        asked = dict.fromkeys(page for page in pages if page.place or page.stored)
        self._refuse_others(asked)
        for page in asked:
            if page.place:
                self._resident.move_to_end(page)
        cold = [page for page in asked if not page.place]
        if not cold:
            return {}
        with self._recorder.span("bank.bring"):
            failed = self._make_room(cold, beside=len(asked) - len(cold))
            return failed | self._load([page for page in cold if page not in failed])

    def enter(self, pages: Sequence[Page]) -> Tensor:
        """Bring these pages, and return where they are in the bank until the next call: (pages,) int64.

        Never fails for want of room while they are no more than `capacity`.

        Raises:
            ServerError: the first cause why a page could not come into the bank.
        """
        for error in self.bring(pages).values():
            raise error
        return self.locate(pages)

    def locate(self, pages: Sequence[Page]) -> Tensor:
        """Return where pages that `bring` has just brought are until the next call: (pages,) int64."""
        return self._stack.column([page.place for page in pages])

    @property
    def tensors(self) -> dict[str, Tensor] | None:
        """The tensors, each (places, *shape), to be read until the next call; None where no kernel could read them."""
        return self._stack.tensors if isinstance(self._form, Float32) else None

    def gather(self, places: Tensor) -> dict[str, Tensor]:  # (pages,) int64
        """Copy the tensors at these places, each (pages, *shape)."""
        return self._form.unpack(self._stack.gather(places))

    def publish(self, pages: Sequence[Page], fast: Mapping[str, Tensor]) -> Mapping[Page, ServerError]:
        """Put new tensors, each (pages, *shape), in these pages, which must differ.

        The pages that found no room, each with the cause, are as they were; all others hold what is new. What the
        pages keep beside their weights is saved with these, so change that before the next call.

        Raises:
            ValueError: a page is another bank's.
        """
        self._refuse_others(pages)
        new = [page for page in pages if not page.place]
        for page in pages:
            if page.place:
                self._resident.move_to_end(page)
        failed = self._make_room(new, beside=len(pages) - len(new)) if new else {}
        if failed:
            rows = self._stack.column([row for row, page in enumerate(pages) if page not in failed])
            pages = [page for page in pages if page not in failed]
            fast = {name: tensor.index_select(0, rows) for name, tensor in fast.items()}
        if pages:
            self._put(pages, fast)
        return failed

    def image(self, page: Page) -> bytes:
        """Return the image of a page in the bank, or of one never written."""
        return pack_image(self.gather(self._stack.column([page.place])), self._initial)

    def release(self, page: Page) -> None:
        """Forget the page here and in the store; it is as one never written.

        Raises:
            ValueError: the page is another bank's; nothing has changed.
        """
        self._refuse_others([page])
        if page.place:
            del self._resident[page]  # first, since it fails for a page that is not here
            self._stack.clear(page.place)
            self._free.append(page.place)
        self._store.drop(page.id)
        page.place, page.stored, page.patterns, page.kept, page.home = INITIAL, False, 0, None, None
        page.writes += 1

    def find_disorder(self) -> str:
        """Describe the first place that is neither free once nor one page's that knows this bank; empty: none is."""
        places = [*self._free, *(page.place for page in self._resident)]
        whole = len(places) == len(set(places)) == self.capacity and min(places) > INITIAL
        if whole and max(places) <= self.capacity and all(page.home is self for page in self._resident):
            return ""
        seen, owners = Counter(places), defaultdict[int, list[int]](list)
        for page in self._resident:
            if page.home is not self:
                return f"place {page.place} has page {page.id}, which is another bank's"
            owners[page.place].append(page.id)
        there = range(INITIAL + 1, self.capacity + 1)
        wrong = min(place for place in {*there, *places} if place not in there or seen[place] != 1)
        free = self._free.count(wrong)
        return f"place {wrong} of {self.capacity} is free {free} times, and has pages {owners[wrong]}"

    def _refuse_others(self, pages: Iterable[Page]) -> None:
        for page in pages:
            if page.home is not self and (page.home is not None or page.written):
                raise ValueError(f"page {page.id} is not of this bank: its memory's model has changed")

    def _put(self, pages: Sequence[Page], fast: Mapping[str, Tensor]) -> None:
        """Overwrite pages, and give a free place to each that has none."""
        free = reversed(self._free)
        places = [page.place or next(free) for page in pages]
        self._stack.put(self._stack.column(places), self._form.pack(fast))
        self._take(sum(not page.place for page in pages))
        for page, place in zip(pages, places, strict=True):
            page.place, page.stored, page.home = place, False, self
            page.writes += 1
            self._resident[page] = None

    def _take(self, count: int) -> list[int]:
        """Take the last free places, the very last one first."""
        return [self._free.pop() for _ in range(count)]

    def _make_room(self, coming: Sequence[Page], *, beside: int) -> dict[Page, ServerError]:
        """Free a place for each, sparing the `beside` pages used last; return those left without one, with the cause.

        Pages that the store does not take stay; in their stead leave those that it has already.
        """
        if (short := len(coming) - len(self._free)) <= 0:
            return {}
        others = max(0, len(self._resident) - beside)
        oldest = list(islice(self._resident, min(short, others)))
        error = self._save([page for page in oldest if not page.stored])
        self._leave(page for page in oldest if page.stored)
        if error is not None and (short := len(coming) - len(self._free)) > 0:
            rest = islice(self._resident, max(0, len(self._resident) - beside))
            self._leave(list(islice((page for page in rest if page.stored), short)))
        return dict.fromkeys(coming[len(self._free) :], error or self._too_many_error(len(coming) + beside))

    def _save(self, pages: Sequence[Page]) -> ServerError | None:
        """Save these pages, fetched from the device together; return why that stopped before the last one."""
        images = self._stack.fetch([page.place for page in pages]) if pages else ()
        for page, image in zip(pages, images, strict=True):
            try:
                self._store.save(page.id, image, page.kept)
            except ServerError as error:
                return error
            page.stored = True
        return None

    def _leave(self, pages: Iterable[Page]) -> None:
        """Free the places of pages that the store holds."""
        for page in pages:
            self._free.append(page.place)
            del self._resident[page]
            page.place, page.kept = INITIAL, None
            self.evictions += 1

    def _load(self, pages: Sequence[Page]) -> dict[Page, ServerError]:
        """Fill free places from the store; return the pages that could not be read, each with the cause."""
        failed: dict[Page, ServerError] = {}
        places = self._free[len(self._free) - len(pages) :][::-1]
        images, land = self._stack.receive(places)
        kept = list[Floats | None]()
        for page, image in zip(pages, images, strict=True):
            try:
                kept.append(self._store.load(page.id, image))
            except ServerError as error:
                failed[page] = error
                kept.append(None)
        land()
        self._take(len(pages))
        for page, place, patterns in zip(pages, places, kept, strict=True):
            if page in failed:
                self._free.append(place)
            else:
                page.place, page.kept = place, patterns
                self._resident[page] = None
                self.loads += 1
        return failed

    def _too_many_error(self, pages: int) -> ServerError:
        return BankFull(
            f"{pages} pages of this model have to be in the bank at the same time, which has room for "
            f"{self.capacity}: raise --bank-memory-mib"
        )
