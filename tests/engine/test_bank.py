"""A bank with fewer places than pages: nothing is lost, whatever leaves and comes back."""

import asyncio
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.support.full_disk import full_after
from tests.support.tiny_models import IMAGE, tiny_model
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.engine.compute.dispatch import read_pages, write_pages
from attractor_server.engine.engine import Engine
from attractor_server.engine.pages.bank import Bank
from attractor_server.engine.pages.precision import PRECISIONS, Precision, page_bytes
from attractor_server.engine.pages.spill import Residency
from attractor_server.engine.pages.spill_file import PageFile
from attractor_server.engine.pages.stacked_weights import PageBytes
from attractor_server.errors import BankFull, ServerError, StoreDamaged, StoreFailed
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Deleted, Outcome, Recalled, Stored
from attractor_server.memories.page import Page
from attractor_server.memories.settings import MemorySettings, WriteMode
from attractor_server.scheduling.jobs import Job, Operation

Floats = NDArray[np.float32]
INITIAL = {"W": torch.arange(24.0).view(6, 4) / 7, "b": torch.full((6,), 0.3)}
PAGE_BYTES, KEPT_VALUES = page_bytes("float32", INITIAL), 8
RECORD_BYTES = 28 + PAGE_BYTES + 4 * KEPT_VALUES


class Counting(PageFile):
    """Remembers what was saved and what was loaded."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path, image_bytes=PAGE_BYTES, kept_values=KEPT_VALUES)
        self.saved: list[int] = []
        self.read: list[int] = []

    def save(self, page: int, image: PageBytes, kept: Floats | None) -> None:
        super().save(page, image, kept)
        self.saved.append(page)

    def load(self, page: int, image: PageBytes) -> Floats | None:
        self.read.append(page)
        return super().load(page, image)


@pytest.fixture
def store() -> Counting:
    return Counting()


def bank_of(places: int, store: PageFile, precision: Precision = "float32") -> Bank:
    return Bank(INITIAL, limit_bytes=places * page_bytes(precision, INITIAL), store=store, precision=precision)


def weights(*numbers: float) -> dict[str, Tensor]:
    """Fast weights of as many pages, by which one can tell them."""
    return {name: torch.stack([tensor + number for number in numbers]) for name, tensor in INITIAL.items()}


def written(bank: Bank, *numbers: int) -> list[Page]:
    """Pages with these weights, published one after another."""
    pages = [Page() for _ in numbers]
    for page, number in zip(pages, numbers, strict=True):
        assert bank.publish([page], weights(number)) == {}
    return pages


def seen(bank: Bank, *pages: Page) -> dict[str, Tensor]:
    return bank.gather(bank.enter(pages))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_page_that_was_used_least_recently_leaves_and_comes_back_as_it_was(store: Counting) -> None:
    bank = bank_of(3, store)
    pages = written(bank, 1, 2, 3)
    bank.enter(pages[:1])
    late = written(bank, 4)
    assert store.saved == [pages[1].id]
    assert same(seen(bank, pages[1]), weights(2))
    assert store.saved == [pages[1].id, pages[2].id]
    assert same(seen(bank, pages[0], *late), weights(1, 4))
    assert store.read == [pages[1].id]


def test_pages_that_come_together_stay_together(store: Counting) -> None:
    bank = bank_of(3, store)
    pages = written(bank, *range(9))
    for start in range(7):
        assert same(seen(bank, *pages[start : start + 3]), weights(start, start + 1, start + 2))
    assert same(seen(bank, pages[0], pages[8], pages[0], Page()), weights(0, 8, 0, 0))


def test_a_page_is_saved_again_only_after_it_was_written_again(store: Counting) -> None:
    bank = bank_of(1, store)
    first, second = written(bank, 1, 2)
    for _ in range(3):
        bank.enter([first])
        bank.enter([second])
    assert store.saved == [first.id, second.id]
    bank.publish([first], weights(3))
    bank.enter([second])
    assert store.saved == [first.id, second.id, first.id]
    assert same(seen(bank, first), weights(3))


def test_kept_patterns_leave_with_their_page_and_come_back(store: Counting, random: np.random.Generator) -> None:
    bank = bank_of(1, store)
    keeping, second = Page(), Page()
    for rows in (1, 3):
        keeping.kept = kept = random.random((rows, 4), dtype=np.float32)
        bank.publish([keeping], weights(rows))
        bank.publish([second], weights(2))
        left = [keeping.kept]
        assert left == [None]
        assert same(seen(bank, keeping), weights(rows))
        np.testing.assert_array_equal(keeping.kept, kept)
    bank.enter([second])
    assert second.kept is None


def test_places_and_records_of_pages_that_were_released_are_used_again(store: Counting) -> None:
    bank = bank_of(2, store)
    stays = written(bank, 7)
    for _ in range(5):
        pages = written(bank, 1, 2, 3, 4)
        assert same(seen(bank, *stays), weights(7))
        for page in pages:
            bank.release(page)
        assert not any(page.written for page in pages)
        assert same(bank.gather(bank.enter(pages)), weights(0, 0, 0, 0))
    assert len(set(store.saved)) == 1 + 5 * 3
    assert store.size_bytes == 4 * RECORD_BYTES


def test_more_pages_than_places_are_refused_and_the_others_come(store: Counting) -> None:
    bank = bank_of(2, store)
    pages = written(bank, 1, 2, 3, 4)
    failed = bank.bring(pages)
    assert len(failed) == 2
    for error in failed.values():
        assert isinstance(error, BankFull)
        assert str(error).startswith("4 pages of this model have to be in the bank at the same time, which has room")
    came = [page for page in pages if page not in failed]
    assert same(seen(bank, *came), weights(*(1 + pages.index(page) for page in came)))


def test_where_the_store_takes_no_more_nothing_is_lost_and_room_is_made_by_what_it_has(store: Counting) -> None:
    with full_after(3 * RECORD_BYTES + 20):
        bank = bank_of(3, store)
        stored = written(bank, 0, 1, 2)
        more = written(bank, 3, 4, 5)  # the first three are on disk, which is full now
        refused = Page()
        failed = bank.publish([more[0], refused], weights(30, 6))
        assert list(failed) == [refused]
        assert isinstance(failed[refused], StoreFailed)
        assert not refused.written
        assert same(seen(bank, more[0], *more[1:]), weights(30, 4, 5))
        (error,) = bank.bring([stored[0], *more[1:]]).values()
        assert isinstance(error, StoreFailed)
        bank.release(more[1])
        assert same(seen(bank, stored[0]), weights(0))
        assert same(seen(bank, stored[1]), weights(1))  # for which the one that came before it left
        assert same(seen(bank, more[0], more[2]), weights(30, 5))
        bank.release(stored[2])
        assert bank.publish([refused], weights(6)) == {}
        assert same(seen(bank, more[0], more[2], refused), weights(30, 5, 6))
        assert same(seen(bank, stored[0]), weights(0))


def test_a_damaged_page_fails_alone_and_can_be_released(tmp_path: Path) -> None:
    path = tmp_path / "model.pages"
    bank = bank_of(3, Counting(path))
    pages = written(bank, *range(6))
    content = bytearray(path.read_bytes())
    content[40] ^= 1  # in the weights of the first page
    path.write_bytes(content)
    failed = bank.bring(pages[:3])
    assert list(failed) == pages[:1]
    assert isinstance(failed[pages[0]], StoreDamaged)
    assert f"page {pages[0].id} is damaged" in str(failed[pages[0]])
    assert same(seen(bank, *pages[1:3]), weights(1, 2))
    with pytest.raises(StoreDamaged):
        bank.enter(pages[:2])
    bank.release(pages[0])
    assert same(seen(bank, *pages[:3]), weights(0, 1, 2))
    assert same(seen(bank, *pages[3:]), weights(3, 4, 5))


STEPS = st.lists(
    st.tuples(st.sampled_from(["publish", "enter", "release"]), st.sets(st.integers(0, 7), min_size=1, max_size=3)),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, precision=st.sampled_from(PRECISIONS), apart=st.booleans())
def test_whatever_is_done_in_whatever_order_each_page_holds_what_was_last_put_in_it(
    steps: Sequence[tuple[str, set[int]]], precision: Precision, apart: bool
) -> None:
    """`apart`: as on a device whose memory the store cannot read, of which pages are copied."""
    bank, pages = bank_of(3, PageFile(image_bytes=PAGE_BYTES), precision), [Page() for _ in range(8)]
    if apart:
        bank._stack._matrices = None
    expected = [0.0] * 8
    for count, (action, chosen) in enumerate(steps, start=1):
        numbers = sorted(chosen)
        some = [pages[number] for number in numbers]
        if action == "publish":
            values = [1.0 + (31 * count + number) % 64 for number in numbers]  # exact in any precision
            for page, number, value in zip(some, numbers, values, strict=True):
                expected[number], page.kept = value, np.full((number, 2), value, np.float32)
            assert bank.publish(some, weights(*values)) == {}
        elif action == "release":
            for page, number in zip(some, numbers, strict=True):
                bank.release(page)
                expected[number] = 0.0
        found = seen(bank, *some)
        for name, tensor in weights(*(expected[number] for number in numbers)).items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-5)
        for page, number in zip(some, numbers, strict=True):
            assert (page.kept is None) == (expected[number] == 0)
            assert page.kept is None or (page.kept == expected[number]).all()


class Bench:
    """An engine, and memories for it by name."""

    def __init__(self, model: Model, loop: asyncio.AbstractEventLoop, write: WriteMode, *, places: int) -> None:
        self.model, self._loop = model, loop
        self._settings = MemorySettings(write=write, page_patterns=6)
        self.engine = Engine([model], bank_bytes=places * model.page_bytes, residency=Residency())
        self.memories: dict[str, MemoryRecord] = {}

    def job(self, operation: Operation, name: str, values: Floats | None = None) -> Job:
        made: MemoryRecord = MemoryRecord(
            name=name, model="m", model_digest=self.model.digest, created_s=0.0, settings=self._settings
        )
        memory = self.memories.setdefault(name, made)
        return Job(
            operation=operation,
            memory=memory,
            future=self._loop.create_future(),
            values=values,
            steps=self.model.steps,
        )

    def run(self, *jobs: Job) -> list[Outcome | ServerError]:
        return self.engine.run(jobs)


@pytest.mark.parametrize("write", ["rewrite", "stream"])
def test_three_times_as_many_memories_as_places_answer_as_if_all_had_one(
    loop: asyncio.AbstractEventLoop, write: WriteMode
) -> None:
    model = tiny_model("tiny", IMAGE)
    names = [f"memory {number}" for number in range(24)]
    benches = [Bench(model, loop, write, places=places) for places in (8, 1000)]
    answers: list[list[bytes]] = []
    for bench in benches:
        random, seen = np.random.default_rng(5), []
        for turn in range(12):
            chosen = random.choice(names, size=4, replace=False).tolist()
            stores = [bench.job(Operation.STORE, name, random.random((2, 16), dtype=np.float32)) for name in chosen]
            assert all(isinstance(outcome, Stored) for outcome in bench.run(*stores))
            if turn == 8:
                assert bench.run(*(bench.job(Operation.DELETE, name) for name in names[:5])) == [Deleted()] * 5
            asked = random.choice(names, size=9).tolist()
            cues = [bench.job(Operation.QUERY, name, random.random((1, 16), dtype=np.float32)) for name in asked]
            for recalled in bench.run(*cues):
                assert isinstance(recalled, Recalled)
                seen.append(recalled.values.tobytes() + recalled.energy_after.tobytes())
        answers.append(seen)
    assert answers[0] == answers[1]


TOLERANCES: Mapping[Precision, tuple[float, float]] = {"bfloat16": (0.9995, 5e-4), "int8": (0.98, 2e-3)}
"""Least cosine of an answer to that of float32 weights, and most that the mean cosine to what was stored may lose"""


@pytest.fixture(scope="module")
def embedding() -> Model:
    return load_model(Path(str(files("attractor_server"))) / "models" / "embedding-384.safetensors")


@pytest.fixture(scope="module")
def sentences() -> Tensor:
    """(memories, patterns, d)"""
    path = Path(str(files("attractor_server"))) / "training/datasets/data/sentence_embeddings.npz"
    levels = np.load(path)["levels"][:: 10448 // 256][:256]
    return torch.nn.functional.normalize(torch.from_numpy(levels.astype(np.float32)), dim=-1).view(8, 32, 384)


@torch.no_grad()
def recalled_after_single_stores(precision: Precision, model: Model, stored: Tensor) -> Tensor:
    """From cues whose second half is missing; each pattern a store of its own, between which the bank rounds."""
    x, memories = model.encode(stored), len(stored)
    initial = model.parameters.initial
    store = PageFile(image_bytes=page_bytes(precision, initial))
    bank = Bank(initial, limit_bytes=memories * page_bytes(precision, initial), store=store, precision=precision)
    pages = [Page() for _ in range(memories)]
    present = torch.ones(memories, 1, dtype=torch.bool)
    for number in range(x.shape[1]):
        count = torch.full((memories,), number)
        fast = bank.gather(bank.enter(pages))
        one = x[:, number : number + 1]
        assert not bank.publish(pages, write_pages(model, fast, one, present=present, stored=count))
    known = torch.arange(stored.shape[-1]).expand(stored.shape) < stored.shape[-1] // 2
    cue = stored * known
    return model.decode(read_pages(model, seen(bank, *pages), model.encode(cue), hold=model.hold(cue, known)).pattern)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_weights_in_fewer_bits_recall_nearly_what_float32_recalls(
    precision: Precision, embedding: Model, sentences: Tensor
) -> None:
    exact, rounded = (recalled_after_single_stores(name, embedding, sentences) for name in ("float32", precision))
    similarity = torch.nn.functional.cosine_similarity
    least, most_lost = TOLERANCES[precision]
    assert not torch.equal(exact, rounded)
    assert similarity(exact, rounded, dim=-1).min() > least
    assert (similarity(exact, sentences, dim=-1) - similarity(rounded, sentences, dim=-1)).mean() < most_lost


def test_fewer_bits_make_room_for_more_pages() -> None:
    banks = [bank_of(64, Counting(), "float32")]
    banks += [
        Bank(INITIAL, limit_bytes=64 * PAGE_BYTES, store=Counting(), precision=name) for name in ("bfloat16", "int8")
    ]
    assert [bank.capacity for bank in banks] == [64, 128, 64 * PAGE_BYTES // (30 + 8)]
