"""Items are found by the words of their texts, alone or beside a cue, wherever a memory goes; erased texts are gone."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from click.testing import CliRunner
from numpy.typing import NDArray
from tests.support.shards import connected, serving

import attractor
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.opening import inspect_store
from attractor_server.storage.verify import find_faults

PAGE = 4
TEXTS = [
    "Ada flies to Lisbon on Tuesday",
    "Bob keeps bees behind the house",
    "The lighthouse keeper is called Ada",
    "Tuesday is market day, market day alone",
    "Nothing to see here",
    "",
]
IDS = [f"i{n}" for n in range(len(TEXTS))]


def signs(count: int = len(TEXTS), seed: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(seed).choice([-1.0, 1.0], (count, 128)).astype(np.float32)


async def filled(client: attractor.AsyncClient, name: str = "a") -> attractor.AsyncMemory:
    memory = await client.create_memory(name, model="binary-128", page_patterns=PAGE)
    await memory.store(signs(), ids=IDS, payloads=[{"n": n} for n in range(len(TEXTS))], texts=TEXTS)
    return memory


async def found_by(memory: attractor.AsyncMemory, words: str, **asked: object) -> list[str]:
    return [hit.id for hit in (await memory.search(words=words, **asked)).hits]  # type: ignore[arg-type]


@pytest.fixture
async def client(durable: ShardSpec) -> AsyncIterator[attractor.AsyncClient]:
    async with connected(durable) as client:
        yield client


async def test_words_alone_find_items_with_a_pattern_and_without(client: attractor.AsyncClient) -> None:
    memory = await filled(client)
    assert await found_by(memory, "ada TUESDAY") == ["i0", "i2", "i3"]
    assert await found_by(memory, "market") == ["i3"]
    assert await found_by(memory, "nobody said so") == []
    await memory.items.put(["note", "other"], payloads=[{"n": 9}, {"n": 10}], texts=["Market on Friday", "friday"])
    assert set(await found_by(memory, "market friday")) == {"i3", "note", "other"}
    assert await found_by(memory, "market friday", filter={"n": {"$gte": 9}}) == ["note", "other"]
    found = await memory.search(words="market", k=1, values=True)
    assert (len(found.hits), found.total) == (1, 2)
    assert found.hits[0].distance is None
    assert np.isnan(found.known)
    best = (await memory.search(words="bees", values=True)).hits[0]
    assert (best.id, best.text, best.page, best.payload) == ("i1", TEXTS[1], 0, {"n": 1})
    assert (await memory.items.get("i1"))[0].words == TEXTS[1]
    assert (await memory.items.get("note"))[0].words == "Market on Friday"
    with pytest.raises(attractor.InvalidRequest, match="cue: saw neither a cue nor words"):
        await memory.search()
    with pytest.raises(attractor.InvalidRequest, match=r"texts\[1\]: saw 65537 bytes; expected at most 65536"):
        await memory.store(signs(2), texts=["", "x" * 65_537])


async def test_words_beside_a_cue_add_to_its_scores(client: attractor.AsyncClient) -> None:
    memory = await filled(client)
    cue = np.where(np.random.default_rng(3).random(128) < 0.5, signs()[2], signs()[0])  # as like the one as the other
    for words, best, second in (("Lisbon flies", "i0", "i2"), ("lighthouse", "i2", "i0")):
        found = await memory.search(cue, words=words, by="cue")
        assert [found.hits[0].id, found.total] == [best, len(TEXTS)]
        assert [hit.id for hit in found.hits[:2]] == [best, second]
        assert len(found.hits) == len(TEXTS)
        assert 0 <= found.known <= 1
    await memory.items.put("note", texts="A lighthouse, a lighthouse")
    found = await memory.search(cue, words="lighthouse")
    assert "note" in [hit.id for hit in found.hits]
    note = next(hit for hit in found.hits if hit.id == "note")
    assert (note.distance, np.isnan(note.probability)) == (None, True)
    everywhere = await client.search("", words="lighthouse keeper")
    assert everywhere.hits[0].id == "i2"


async def test_items_are_searched_for_without_async_and_from_a_shell(on_disk: ShardSpec) -> None:
    async with serving(on_disk) as (shard,), attractor.connect(shard.info.address) as client:
        await filled(client, "users/a")

        def ask() -> tuple[str, str, str]:
            with attractor.Client(shard.info.address) as without:
                (hit,) = without.memory("users/a").search(words="bees").hits
                (same,) = without.search("users/", words="bees").hits
                assert (hit.id, same.id, same.memory) == ("i1", "i1", "users/a")

            def run(*arguments: str) -> str:
                result = CliRunner().invoke(main, ["search", *arguments, "--server", shard.info.address])
                assert result.exit_code == 0, result.output
                return result.output

            limited = run("users/", "--words", "ada tuesday", "-k", "1", "--where", '{"n": {"$gt": 0}}', "--json")
            return run("users/a", "--words", "ada"), run("users/", "--words", "bees"), limited

        one, all_, limited = await to_thread.run_sync(ask)
        assert {line.split("\t")[2] for line in one.splitlines()[1:]} == {"i0", "i2"}
        assert all_.splitlines()[1].split("\t")[1:] == ["users/a", "i1", TEXTS[1]]
        assert [json.loads(line)["id"] for line in limited.splitlines()] == ["i2"]


async def test_texts_of_other_memories_change_nothing(client: attractor.AsyncClient) -> None:
    memory = await filled(client)
    before = [(hit.id, hit.score) for hit in (await memory.search(words="ada tuesday market")).hits]
    other = await client.create_memory("other", model="binary-128")
    await other.store(signs(32, seed=8), texts=["ada"] * 32)
    fork = await memory.fork("fork")
    await fork.store(signs(8, seed=9), texts=["market tuesday"] * 8)
    assert [(hit.id, hit.score) for hit in (await memory.search(words="ada tuesday market")).hits] == before


async def test_words_go_where_the_memory_goes(durable: ShardSpec, tmp_path: Path) -> None:
    async with connected(durable) as client:
        memory = await filled(client)
        await memory.snapshot("before")
        fork = await memory.fork("fork")
        await memory.items.erase("i2")
        await memory.store(signs(1, seed=9)[0], ids="i0", texts="Ada stays", on_conflict="replace")
        for one, ada in ((memory, ["i0"]), (fork, ["i0", "i2"])):
            assert sorted(await found_by(one, "ada")) == ada
        assert (await found_by(memory, "lisbon"), await found_by(fork, "lisbon")) == ([], ["i0"])
        await memory.export(tmp_path / "file")
        copy = await client.import_memory(tmp_path / "file", name="copy")
        await memory.rebuild()
        for one in (memory, copy):
            assert await found_by(one, "stays") == ["i0"]
        await memory.restore("before")
        assert sorted(await found_by(memory, "ada")) == ["i0", "i2"]
        await client.delete_memory("fork")
    async with connected(durable) as client:
        assert sorted(await found_by(client.memory("a"), "ada")) == ["i0", "i2"]
    store_uri = durable.store_uri
    assert store_uri is not None

    def find_all_faults() -> list[str]:
        with inspect_store(store_uri) as view:
            return [str(fault) for fault in find_faults(view, Counter())]

    assert await to_thread.run_sync(find_all_faults) == []


async def test_no_word_of_what_was_erased_replaced_or_deleted_stays_in_a_file(
    on_disk: ShardSpec, tmp_path: Path
) -> None:
    words = ["verschwiegen", "klandestin", "heimlich", "diskret", "okkult"]

    async def written(word: str) -> bool:
        files = [path async for path in anyio.Path(tmp_path).rglob("*") if await path.is_file()]
        return any([word.encode() in (await path.read_bytes()).lower() for path in files])

    async with connected(on_disk) as client:
        memory = await client.create_memory("a", model="binary-128", page_patterns=PAGE)
        await memory.store(signs(4), ids=[*"wxyz"], texts=["Verschwiegen ist sie", "klandestin", "gut", "offen"])
        await memory.items.put(["p", "q"], texts=["diskret", "offen"])
        gone = await client.create_memory("gone", model="binary-128")
        await gone.store(signs(1)[0], texts="heimlich")
        await memory.store(signs(1, seed=8)[0], ids="t", texts="okkult", ttl_s=60)
        assert await written("offen")
        await memory.items.erase(["w", "p"])
        await memory.store(signs(1, seed=9)[0], ids="x", texts="gut", on_conflict="replace")
        await client.delete_memory("gone")
        await memory.items.erase("t")
        assert sorted(await found_by(memory, "gut offen")) == ["q", "x", "y", "z"]
    assert [word for word in words if await written(word)] == []
    assert await written("offen")
