"""Memories of several pages: how they are written, which page answers, and what is forgotten."""

import asyncio
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from examples.pipeline import pictures
from tests.support.engine_bench import Bench, flipped, patterns, signs
from tests.support.tiny_models import IMAGE, KEY, VALUE, able_model, tiny_model

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model
from attractor_server.errors import MemoryFull, WriteDiverged
from attractor_server.memories.outcomes import Deleted, Erased, Recalled, Recognized, Stored, Unfinished
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Operation

TINY = tiny_model("tiny", IMAGE)
ABLE = able_model("able", IMAGE)
REWRITE = MemorySettings(page_patterns=8)
STREAM = MemorySettings(write="stream", page_patterns=8)
Loop = asyncio.AbstractEventLoop


def test_patterns_stored_one_by_one_are_held_as_those_stored_together(loop: Loop, random: np.random.Generator) -> None:
    bench, stored, cues = Bench(TINY, loop, settings=REWRITE), patterns(random, 7), patterns(random, 3)
    for number in range(7):
        assert bench.store("singly", stored[number][None]) == Stored(version=number + 1, patterns=number + 1)
    bench.store("together", stored)
    one, other = bench.query("singly", cues), bench.query("together", cues)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.energy_after, other.energy_after, rtol=1e-6, atol=1e-6)


def test_a_stream_adds_to_what_is_written_and_keeps_no_pattern(loop: Loop, random: np.random.Generator) -> None:
    stored, cues = patterns(random, 6), patterns(random, 3)
    bench = Bench(TINY, loop, settings=STREAM)
    for number in range(6):
        bench.store("singly", stored[number][None])
    bench.store("together", stored)
    assert [page.kept for page in bench.memories["singly"].pages] == [None]
    assert not np.allclose(bench.recall("singly", cues), bench.recall("together", cues), rtol=1e-3, atol=1e-3)


def test_a_full_page_is_sealed_and_the_next_one_is_as_of_a_new_memory(loop: Loop, random: np.random.Generator) -> None:
    bench, stored = Bench(TINY, loop, settings=REWRITE), patterns(random, 11)
    for number in range(11):
        bench.store("a", stored[number][None])
        bench.store("first" if number < 8 else "second", stored[number][None])
    assert bench.pages("a") == [8, 3]
    assert [page.kept is None for page in bench.memories["a"].pages] == [True, False]
    recalled = bench.query("a", stored)
    assert recalled.pages is not None
    for number, name in enumerate(("first", "second")):
        here = recalled.pages == number
        assert here.any()
        np.testing.assert_allclose(recalled.values[here], bench.recall(name, stored[here]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [REWRITE, STREAM], ids=lambda settings: settings.write)
def test_one_store_may_fill_several_pages(loop: Loop, settings: MemorySettings, random: np.random.Generator) -> None:
    bench, stored = Bench(TINY, loop, settings=settings), patterns(random, 21)
    bench.store("a", stored[:3])
    assert bench.store("a", stored[3:]) == Stored(version=2, patterns=21)
    assert bench.pages("a") == [8, 8, 5]
    bench.store("second", stored[8:16])
    recalled = bench.query("a", stored)
    assert recalled.pages is not None
    here = recalled.pages == 1
    assert here.any()
    np.testing.assert_allclose(recalled.values[here], bench.recall("second", stored[here]), rtol=1e-5, atol=1e-5)


def test_a_memory_that_refuses_takes_what_its_page_has_room_for_and_nothing_of_the_rest(
    loop: Loop, random: np.random.Generator
) -> None:
    bench = Bench(ABLE, loop, settings=replace(REWRITE, when_full="refuse"))
    stored = patterns(random, 8)
    bench.store("a", stored[:6])
    before = bench.recall("a", stored)
    refused = bench.store("a", patterns(random, 3))
    assert isinstance(refused, MemoryFull)
    assert "holds 6 of the 8 patterns of its page" in str(refused)
    assert "saw 3 more" in str(refused)
    assert (bench.recall("a", stored) == before).all()
    assert bench.store("a", stored[6:]) == Stored(version=2, patterns=8)
    full, fits = bench.run(
        bench.job(Operation.STORE, "a", patterns(random, 1)), bench.job(Operation.STORE, "b", patterns(random, 1))
    )
    assert isinstance(full, MemoryFull)
    assert fits == Stored(version=1, patterns=1)
    assert bench.erase("a", stored[:1]) == Erased(version=3, patterns=7)
    assert bench.store("a", stored[:1]) == Stored(version=4, patterns=8)


def test_of_merged_stores_a_memory_that_refuses_takes_those_that_fit(loop: Loop, random: np.random.Generator) -> None:
    bench = Bench(TINY, loop, settings=replace(STREAM, when_full="refuse"))
    first, large, last = bench.run(*(bench.job(Operation.STORE, "a", patterns(random, size)) for size in (6, 3, 2)))
    assert (first, last) == (Stored(version=1, patterns=6), Stored(version=2, patterns=8))
    assert isinstance(large, MemoryFull)


@pytest.mark.parametrize("write", ["rewrite", "stream"])
def test_a_memory_that_forgets_has_two_pages_and_the_older_one_goes(
    loop: Loop, write: str, random: np.random.Generator
) -> None:
    settings = MemorySettings(write=write, when_full="forget", page_patterns=4)  # type: ignore[arg-type]
    bench = Bench(TINY, loop, bank_bytes=3 * TINY.page_bytes, settings=settings)
    stored = patterns(random, 30)
    totals = [bench.store("a", stored[number][None]) for number in range(10)]
    assert [one.patterns for one in totals if isinstance(one, Stored)] == [1, 2, 3, 4, 5, 6, 7, 8, 5, 6]
    assert bench.pages("a") == [4, 2]
    alone = Bench(TINY, loop, settings=settings)
    for number in range(4, 8):
        alone.store("b", stored[number][None])
    recalled = bench.query("a", stored[4:8])
    here = np.ones(4, np.bool_) if recalled.pages is None else recalled.pages == 0
    assert here.any()
    np.testing.assert_allclose(recalled.values[here], alone.recall("b", stored[4:8][here]), rtol=1e-5, atol=1e-5)
    assert bench.store("a", stored[10:]) == Stored(version=11, patterns=6)
    assert bench.pages("a") == [4, 2]


@pytest.mark.parametrize("settings", [REWRITE, STREAM], ids=lambda settings: settings.write)
def test_stores_of_a_memory_in_one_batch_are_one_write_with_an_answer_each(
    loop: Loop, settings: MemorySettings, random: np.random.Generator
) -> None:
    bench, stored = Bench(TINY, loop, settings=settings), patterns(random, 13)
    parts = [stored[:2], stored[2:3], stored[3:9], stored[9:]]
    outcomes = bench.run(
        *(bench.job(Operation.STORE, "a", part) for part in parts[:2]),
        bench.job(Operation.STORE, "b", stored[:4]),
        *(bench.job(Operation.STORE, "a", part) for part in parts[2:]),
    )
    assert [(one.version, one.patterns) for one in outcomes if isinstance(one, Stored)] == [
        *((1, 2), (2, 3), (1, 4)),
        *((3, 9), (4, 13)),
    ]
    bench.store("together", stored)
    assert bench.pages("a") == bench.pages("together") == [8, 5]
    one, other = bench.query("a", stored), bench.query("together", stored)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [REWRITE, STREAM], ids=lambda settings: settings.write)
def test_a_bad_store_among_merged_ones_fails_alone(
    loop: Loop, settings: MemorySettings, random: np.random.Generator
) -> None:
    model = tiny_model("pair", KEY, VALUE)
    bench = Bench(model, loop, settings=settings)
    good, huge = patterns(random, 12, 14), np.full((1, 14), 3e38, np.float32)
    bench.store("a", good[:1])
    parts = [good[1:3], huge, good[3:12]]
    outcomes = bench.run(
        *(bench.job(Operation.STORE, "a", part) for part in parts), bench.job(Operation.STORE, "b", good)
    )
    assert outcomes[0] == Stored(version=2, patterns=3)
    assert isinstance(outcomes[1], WriteDiverged)
    assert outcomes[2:] == [Stored(version=3, patterns=12), Stored(version=1, patterns=12)]
    assert bench.pages("a") == [8, 4]
    for part in (good[:1], good[1:3], good[3:]):
        bench.store("without it", part)
    np.testing.assert_allclose(bench.recall("a", good), bench.recall("without it", good), rtol=1e-5, atol=1e-5)


def test_a_bad_store_over_several_pages_leaves_none_of_them(loop: Loop, random: np.random.Generator) -> None:
    bench = Bench(tiny_model("pair", KEY, VALUE), loop, settings=STREAM)
    good = patterns(random, 3, 14)
    bench.store("a", good)
    before = bench.query("a", good)
    bad = patterns(random, 20, 14)
    bad[0] = 3e38
    assert isinstance(bench.store("a", bad), WriteDiverged)
    assert bench.pages("a") == [3]
    after = bench.query("a", good)
    assert (after.values == before.values).all()
    assert after.pages is None


def test_a_cue_is_read_in_the_page_that_holds_its_pattern(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    settings = MemorySettings(page_patterns=binary.capacity)
    bench, stored = Bench(binary, loop, bank_bytes=1 << 26, settings=settings), signs(random, 16 * binary.capacity)
    bench.store("a", stored)
    cues = flipped(random, stored)
    recalled = bench.query("a", cues)
    assert recalled.pages is not None
    right = recalled.pages == np.arange(len(stored)) // binary.capacity
    assert right.mean() >= 0.99
    assert (np.sign(recalled.values) == stored)[right].mean() > 0.98
    (recognized,) = bench.run(bench.job(Operation.RECOGNIZE, "a", cues))
    assert isinstance(recognized, Recognized)
    assert recognized.pages is not None
    assert (recognized.pages == recalled.pages).all()


def test_several_jobs_on_several_pages_get_each_their_own_as_from_memories_of_one_page(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    bench = Bench(binary, loop, bank_bytes=1 << 26, settings=MemorySettings(page_patterns=8))
    stored = signs(random, 32)
    bench.store("several", stored)
    for number in range(4):
        bench.store(f"page {number}", stored[8 * number : 8 * number + 8])
    order = random.permutation(32)
    cues = flipped(random, stored[order], 0.05)
    shares = [slice(0, 5), slice(5, 6), slice(6, 32)]
    jobs = [bench.job(Operation.QUERY, "several", cues[share], np.abs(cues[share]) > 2) for share in shares]
    for job in jobs:
        job.trajectory = True
    known = random.random((5, 128)) < 0.3
    jobs[0].known = known
    for share, recalled in zip(shares, bench.run(*jobs), strict=True):
        assert isinstance(recalled, Recalled)
        pages = np.zeros(len(recalled.values), np.int64) if recalled.pages is None else recalled.pages
        assert (pages == order[share] // 8).all()
        for row, (number, cue) in enumerate(zip(pages, cues[share], strict=True)):
            mask = known[row] if share.start == 0 else np.zeros(128, np.bool_)
            job = bench.job(Operation.QUERY, f"page {number}", cue[None], mask[None])
            job.trajectory = True
            (alone,) = bench.run(job)
            assert isinstance(alone, Recalled)
            assert recalled.iterates is not None
            assert alone.iterates is not None
            assert recalled.energies is not None
            assert alone.energies is not None
            np.testing.assert_allclose(recalled.values[row], alone.values[0], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(recalled.iterates[:, row], alone.iterates[:, 0], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(recalled.energies[:, row], alone.energies[:, 0], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(recalled.delta_energy[row], alone.delta_energy[0], rtol=1e-3, atol=1e-3)


def test_the_more_pages_the_less_probable_is_what_one_of_them_knows(
    loop: Loop, binary: Model, random: np.random.Generator
) -> None:
    bench, stored = Bench(binary, loop, bank_bytes=1 << 26, settings=MemorySettings(page_patterns=8)), signs(random, 64)
    bench.store("several", stored)
    bench.store("one", stored[:8])
    cues = flipped(random, stored[:8], 0.4)
    of_several, of_one = (bench.run(bench.job(Operation.RECOGNIZE, name, cues))[0] for name in ("several", "one"))
    assert isinstance(of_several, Recognized)
    assert isinstance(of_one, Recognized)
    assert of_several.probability is not None
    assert of_one.probability is not None
    assert of_several.pages is not None
    here = of_several.pages == 0  # so far from what was stored, another page may seem to know a cue
    assert here.sum() > 2
    several, one = of_several.probability[here], of_one.probability[here]
    np.testing.assert_allclose(8 * several / (1 - several), one / (1 - one), rtol=1e-3)


def test_patterns_that_are_much_alike_are_recalled_as_well_in_one_store_as_one_by_one(loop: Loop) -> None:
    model = load_model(Path(str(files("attractor_server"))) / "models" / "glyphs-28.safetensors")
    images = np.stack(list(pictures("ABDEFGHKLMNPRSTVXYZ"))).reshape(19, -1).astype(np.float32)  # of one typeface
    images /= 255
    covered = (np.arange(784) % 28 >= 14) & (np.arange(784) >= 392)
    cues, errors = np.where(covered, np.float32(0), images), {}
    for name, size in (("together", 19), ("singly", 1)):
        bench = Bench(model, loop, bank_bytes=1 << 24, settings=MemorySettings(write="stream", page_patterns=32))
        for start in range(0, 19, size):
            bench.store(name, images[start : start + size])
        errors[name] = float(np.square(bench.recall(name, cues) - images).mean())
    assert errors["together"] < 1.3 * errors["singly"]


def test_thousands_of_pages_live_on_a_bank_of_few_places(loop: Loop, random: np.random.Generator) -> None:
    settings = MemorySettings(page_patterns=1)
    bench = Bench(TINY, loop, bank_bytes=32 * TINY.page_bytes, settings=settings)
    stored = patterns(random, 2000)
    assert bench.store("a", stored) == Stored(version=1, patterns=2000)
    assert len(bench.memories["a"].pages) == 2000
    recalled = bench.query("a", stored[::100])
    roomy = Bench(TINY, loop, bank_bytes=2000 * TINY.page_bytes, settings=settings)
    roomy.store("a", stored)
    other = roomy.query("a", stored[::100])
    assert recalled.pages is not None
    assert other.pages is not None
    assert (recalled.pages == other.pages).all()
    np.testing.assert_allclose(recalled.values, other.values, rtol=1e-5, atol=1e-5)
    deletion = bench.job(Operation.DELETE, "a")
    while (outcome := bench.run(deletion)[0]) == Unfinished():  # it stops now and then where that takes long
        pass
    assert outcome == Deleted()
    assert bench.memories["a"].pages == []
    assert bench.store("b", stored[:4]) == Stored(version=1, patterns=4)


def test_open_pages_come_back_from_the_store_with_their_patterns(loop: Loop, random: np.random.Generator) -> None:
    bench = Bench(TINY, loop, bank_bytes=2 * TINY.page_bytes, settings=REWRITE)
    stored = {f"m{number}": patterns(random, 6) for number in range(10)}
    for part in range(3):
        for name, values in stored.items():
            bench.store(name, values[2 * part : 2 * part + 2])
    roomy = Bench(TINY, loop, settings=REWRITE)
    for name, values in stored.items():
        roomy.store(name, values)
        np.testing.assert_allclose(bench.recall(name, values), roomy.recall(name, values), rtol=1e-5, atol=1e-5)
        assert bench.erase(name, values[:1]) == Erased(version=4, patterns=5)


def test_what_others_store_and_ask_never_changes_a_bit(loop: Loop, random: np.random.Generator) -> None:
    mine, cue, more = patterns(random, 20), patterns(random, 4), patterns(random, 2)
    seen = []
    for theirs in (patterns(random, 20), 1e3 * patterns(random, 20)):
        one = Bench(TINY, loop, settings=REWRITE)
        one.run(one.job(Operation.STORE, "mine", mine), one.job(Operation.STORE, "theirs", theirs))
        one.run(one.job(Operation.STORE, "theirs", theirs[:2]), one.job(Operation.STORE, "mine", more))
        # One cue of theirs: it makes one row, whichever page is chosen, and the batch has the same shape.
        recalled, _ = one.run(one.job(Operation.QUERY, "mine", cue), one.job(Operation.QUERY, "theirs", theirs[:1]))
        assert isinstance(recalled, Recalled)
        assert recalled.pages is not None
        seen.append((recalled.values.tobytes(), recalled.energy_after.tobytes(), recalled.pages.tobytes()))
    assert seen[0] == seen[1]
