"""What is erased of pages: as if it had never been stored where it is kept, by the eraser where it is not."""

import asyncio

import numpy as np
from tests.support.engine_bench import Bench, flipped, patterns, signs
from tests.support.tiny_models import IMAGE, able_model, tiny_model

from attractor_server.energy.model import Model
from attractor_server.errors import BankFull, CannotErase
from attractor_server.memories.outcomes import Erased, Stored
from attractor_server.memories.settings import MemorySettings

TINY = tiny_model("tiny", IMAGE)
ABLE = able_model("able", IMAGE)
REWRITE = MemorySettings(page_patterns=8)
Loop = asyncio.AbstractEventLoop


def test_what_an_open_page_keeps_is_erased_as_if_it_had_never_been_stored(
    loop: Loop, random: np.random.Generator
) -> None:
    bench, stored, cues = Bench(TINY, loop, settings=REWRITE), patterns(random, 7), patterns(random, 3)
    bench.store("a", stored)
    gone = stored[[1, 4]] * np.float32(1 + 1e-6)
    assert bench.erase("a", gone) == Erased(version=2, patterns=5)
    bench.store("never", stored[[0, 2, 3, 5, 6]])
    np.testing.assert_allclose(bench.recall("a", cues), bench.recall("never", cues), rtol=1e-6, atol=1e-6)
    more = patterns(random, 2)
    for name in ("a", "never"):
        bench.store(name, more)
    np.testing.assert_allclose(bench.recall("a", cues), bench.recall("never", cues), rtol=1e-6, atol=1e-6)


def test_a_page_of_which_all_is_erased_is_as_new(loop: Loop, random: np.random.Generator) -> None:
    bench, stored = Bench(TINY, loop, settings=REWRITE), patterns(random, 3)
    bench.store("a", stored)
    assert bench.erase("a", stored) == Erased(version=2, patterns=0)
    assert not bench.memories["a"].pages[0].written
    assert (bench.recall("a", stored) == bench.recall("new", stored)).all()
    assert bench.store("a", stored) == Stored(version=3, patterns=3)


def test_a_pattern_stored_twice_is_there_once_after_one_erase(loop: Loop, random: np.random.Generator) -> None:
    bench, stored = Bench(TINY, loop, settings=REWRITE), patterns(random, 2)
    bench.store("a", stored[[0, 1, 0]])
    assert bench.erase("a", stored[:1]) == Erased(version=2, patterns=2)
    bench.store("once", stored[[1, 0]])
    np.testing.assert_allclose(bench.recall("a", stored), bench.recall("once", stored), rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_erase_says_so_where_the_pattern_is_not_kept_and_changes_nothing(
    loop: Loop, random: np.random.Generator
) -> None:
    bench, stored = Bench(TINY, loop, settings=REWRITE), patterns(random, 10)
    bench.store("a", stored)
    before = bench.query("a", stored)
    refused = bench.erase("a", stored[[0, 9]])
    assert isinstance(refused, CannotErase)
    assert "1 of the patterns are not kept" in str(refused)
    assert (bench.query("a", stored).values == before.values).all()
    assert (bench.memories["a"].version, bench.pages("a")) == (1, [8, 2])
    assert bench.erase("a", stored[9:]) == Erased(version=2, patterns=9)


def test_patterns_of_one_erase_are_forgotten_by_the_pages_that_knew_them(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    bench = Bench(binary, loop, bank_bytes=1 << 26, settings=MemorySettings(page_patterns=16))
    stored = signs(random, 40)
    bench.store("a", stored)
    gone = [3, 20, 35]
    left = np.setdiff1d(np.arange(40), gone)
    assert bench.erase("a", stored[gone]) == Erased(version=2, patterns=37)
    assert bench.pages("a") == [15, 15, 7]
    assert [page.kept is None for page in bench.memories["a"].pages] == [True, True, False]
    wrong = (np.sign(bench.recall("a", flipped(random, stored))) != stored).mean(1)
    assert wrong[gone].min() > 0.25
    assert wrong[left].max() < 0.05


def test_a_page_that_the_eraser_changed_is_added_to_from_then_on(loop: Loop, random: np.random.Generator) -> None:
    bench, stored = Bench(ABLE, loop, settings=REWRITE), patterns(random, 4)
    bench.store("a", stored)
    before = bench.query("a", stored).delta_energy
    near = stored[:1] + 0.05
    assert bench.erase("a", near) == Erased(version=2, patterns=3)
    forgotten = bench.query("a", stored).delta_energy
    assert forgotten[0] > before[0]
    assert bench.store("a", patterns(random, 1)) == Stored(version=3, patterns=4)
    assert bench.query("a", stored).delta_energy[0] > before[0] + 0.5 * (forgotten[0] - before[0])


def test_an_erase_over_more_pages_than_the_bank_holds_is_refused_whole(loop: Loop) -> None:
    bench = Bench(ABLE, loop, bank_bytes=2 * ABLE.page_bytes, settings=MemorySettings(write="stream", page_patterns=1))
    stored = 4 * np.eye(3, 16, dtype=np.float32)
    bench.store("a", stored)
    pages = bench.query("a", stored).pages
    assert pages is not None
    assert len(np.unique(pages)) == 3
    refused = bench.erase("a", stored)
    assert isinstance(refused, BankFull)
    assert "lie in 3 pages" in str(refused)
    assert bench.memories["a"].version == 1
    assert bench.erase("a", stored[:2]) == Erased(version=2, patterns=1)
