"""Memories of texts, by the real server: what is remembered, found, corrected, forgotten and taken back."""

import subprocess
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from anyio import to_thread
from tests.support.shards import serving
from tests.support.text_memories import ABOUT_ADA, FACTS, shared_encoder

import attractor
from attractor_agents import AgentMemory, Recalled, Remembered, Static, SyncAgentMemory, from_function
from attractor_server.shard.spec import ShardSpec


async def remember_facts(memory: AgentMemory) -> list[str]:
    return [(await memory.remember(fact, metadata={"n": n})).id for n, fact in enumerate(FACTS)]


async def texts_in(memory: AgentMemory) -> list[str]:
    return [note.text async for note in memory.list()]


async def test_a_question_brings_back_what_is_remembered_about_it(memory: AgentMemory) -> None:
    ids = await remember_facts(memory)
    recalled = await memory.recall(ABOUT_ADA, k=2)
    assert recalled.known
    assert len(recalled.hits) == 2
    best = recalled.hits[0]
    assert best.id == ids[0]
    assert (best.text, best.metadata, recalled.total) == (FACTS[0], {"n": 0}, len(FACTS))
    assert best.probability > recalled.hits[1].probability
    assert 0.5 < best.similarity <= 1.0
    assert best.created is not None
    assert abs(best.created - datetime.now(UTC)) < timedelta(minutes=5)


async def test_nothing_is_known_of_what_was_never_told(memory: AgentMemory) -> None:
    await remember_facts(memory)
    assert not (await memory.recall("the tallest mountain of the moon")).known
    assert not (await memory.seen("Quantum chromodynamics has eight gluons")).probability > 0.5
    seen = await memory.seen("The key is under the mat!")
    assert seen.nearest is not None
    assert seen.probability > 0.9
    assert seen.nearest.text == FACTS[1]


async def test_a_space_that_is_not_there_remembers_nothing_and_is_not_made_by_asking(
    client: attractor.AsyncClient, memory: AgentMemory
) -> None:
    assert not (await memory.recall("anything")).hits
    assert await texts_in(memory) == []
    assert await memory.get(["a"]) == []
    assert await memory.forget(["a"]) == []
    assert (await memory.seen("anything")).nearest is None
    assert [info.name async for info in client.memories(memory.space)] == []
    await memory.delete()


async def test_what_says_the_same_is_remembered_once(memory: AgentMemory) -> None:
    first = await memory.remember(FACTS[0])
    again = await memory.remember(FACTS[0].upper())
    assert (first.new, again.new, again.id) == (True, False, first.id)
    assert again.nearest is not None
    assert again.nearest.text == FACTS[0]
    other = await memory.remember(FACTS[1])
    assert other.new
    assert other.nearest is not None
    assert (await memory.remember(FACTS[0], unless_similar=None)).new
    assert await memory.count() == 3


async def test_of_writers_that_say_the_same_at_once_one_stores_it(
    client: attractor.AsyncClient, memory: AgentMemory
) -> None:
    await memory.remember(FACTS[1])
    told: list[Remembered] = []

    async def remember(text: str) -> None:
        told.append(await AgentMemory(client, memory.space, encoder=shared_encoder()).remember(text))

    async with anyio.create_task_group() as tasks:
        for at in range(8):
            tasks.start_soon(remember, FACTS[0].upper() if at % 2 else FACTS[0])
    assert [one.new for one in told].count(True) == 1
    assert len({one.id for one in told}) == 1
    assert await memory.count() == 2


async def test_many_texts_are_remembered_together(memory: AgentMemory) -> None:
    many = [f"House {n} is blue" for n in range(150)]
    ids = await memory.remember_all(many, metadata=[{"n": n} for n in range(150)])
    assert await texts_in(memory) == many
    assert [note.metadata for note in await memory.get(ids[3])] == [{"n": 3}]
    assert await memory.remember_all(["House 3 is red", "House 4 is red"], ids=ids[3:5]) == ids[3:5]
    assert await memory.count() == 150
    assert await memory.remember_all([]) == []
    with pytest.raises(attractor.InvalidRequest, match="ids: saw 1 of them; expected 2"):
        await memory.remember_all(["a", "b"], ids=["a"])


async def test_texts_are_corrected_in_their_place(memory: AgentMemory) -> None:
    ids = await remember_facts(memory)
    old = await memory.update(ids[0], text="Ada flies to Oslo on Friday")
    assert (old.text, old.metadata) == (FACTS[0], {"n": 0})
    (new,) = await memory.get(ids[0])
    assert (new.text, new.metadata, new.created) == ("Ada flies to Oslo on Friday", {"n": 0}, old.created)
    await memory.update(ids[0], metadata={"who": "Ada"})
    assert (await memory.get(ids[0]))[0].metadata == {"who": "Ada"}
    await memory.remember("Ada flies to Oslo on Sunday", id=ids[0])
    assert [hit.text for hit in (await memory.recall(ABOUT_ADA, k=1)).hits] == ["Ada flies to Oslo on Sunday"]
    assert await memory.count() == len(FACTS)
    with pytest.raises(attractor.NotFound, match="id: saw 'nobody'"):
        await memory.update("nobody", text="x")


async def test_conditions_on_metadata_and_time_choose(memory: AgentMemory) -> None:
    ids = await remember_facts(memory)
    assert [note.id async for note in memory.list(filter={"n": {"$gte": 3}})] == ids[3:]
    assert [note.id async for note in memory.list(newest_first=True)] == ids[::-1]
    recalled = await memory.recall(ABOUT_ADA, filter={"n": {"$in": [1, 2]}})
    assert {hit.id for hit in recalled.hits} <= {ids[1], ids[2]}
    assert recalled.total == 2
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert (await memory.recall(ABOUT_ADA, since=soon)).total == 0
    assert (await memory.recall(ABOUT_ADA, since=soon - timedelta(hours=2))).total == len(FACTS)
    assert await memory.count(filter={"n": 1}) == 1
    for wrong in ({"filter": ["n"]}, {"since": datetime(2026, 1, 1)}):
        with pytest.raises(attractor.InvalidRequest, match=f"{next(iter(wrong))}: saw"):
            await memory.recall("x", **wrong)


async def test_texts_are_forgotten_by_id_by_conditions_and_by_what_they_say(memory: AgentMemory) -> None:
    ids = await remember_facts(memory)
    assert await memory.forget([ids[4], "nobody"]) == [ids[4]]
    assert await memory.forget(filter={"n": 3}) == [ids[3]]
    assert await memory.forget(text=FACTS[2]) == [ids[2]]
    assert await memory.forget(text="the tallest mountain of the moon") == []
    assert await texts_in(memory) == list(FACTS[:2])
    assert not (await memory.recall(FACTS[2])).known
    for wrong in ({}, {"ids": "a", "text": "b"}):
        with pytest.raises(attractor.InvalidRequest, match="expected one of them"):
            await memory.forget(**wrong)  # type: ignore[arg-type]


async def test_a_branch_goes_its_own_way_and_a_rollback_brings_everything_back(memory: AgentMemory) -> None:
    ids = await remember_facts(memory)
    await memory.checkpoint("before")
    branch = await memory.branch("trial")
    assert branch.space == f"{memory.space}/trial"
    await branch.forget(ids[1:])
    await branch.remember("Mars has two moons")
    assert await texts_in(branch) == [FACTS[0], "Mars has two moons"]
    assert await texts_in(memory) == list(FACTS)
    await memory.forget(ids[0])
    await memory.remember("Mars has two moons")
    earlier = await memory.branch("earlier", tag="before")
    await memory.rollback("before")
    assert await texts_in(memory) == list(FACTS) == await texts_in(earlier)
    assert (await memory.recall(ABOUT_ADA)).hits[0].id == ids[0]
    with pytest.raises(attractor.SnapshotNotFound):
        await memory.rollback("never")
    with pytest.raises(attractor.Conflict):
        await memory.branch("trial")


async def test_a_memory_belongs_to_its_encoder_and_so_do_its_branches(
    client: attractor.AsyncClient, memory: AgentMemory
) -> None:
    await memory.remember(FACTS[0])
    branch = await memory.branch("trial")
    other = from_function(lambda given: [[1.0, 2.0]] * len(given), name="another")
    for space in (memory.space, branch.space):
        stranger = AgentMemory(client, space, encoder=other)
        for call in (stranger.remember("x"), stranger.recall("x"), stranger.get("x"), stranger.checkpoint("x")):
            with pytest.raises(attractor.Conflict, match=r"belongs to 'all-minilm.*this is 'another'"):
                await call
    assert await texts_in(memory) == [FACTS[0]]


async def test_of_two_encoders_that_are_first_at_once_one_has_the_memory(
    client: attractor.AsyncClient, space: str
) -> None:
    names = [f"encoder-{n}" for n in range(4)]
    refused = []

    async def remember(name: str) -> None:
        vectors = from_function(lambda given: [[1.0, 2.0]] * len(given), name=name)
        try:
            await AgentMemory(client, space, encoder=vectors).remember("x")
        except attractor.Conflict:
            refused.append(name)

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(remember, name)
    assert len(refused) == 3


async def test_vectors_that_the_model_was_not_trained_on_are_compared_as_they_are(
    client: attractor.AsyncClient, space: str
) -> None:
    memory = AgentMemory(client, space, encoder=Static())
    pets = ("grey cat", "parrot", "tortoise", "goldfish", "poodle", "rabbit")
    people = ("Ada", "Bob", "Grace", "Kurt", "Emmy", "Alan")
    facts = [f"{person} has a {pet} as a pet" for person, pet in zip(people, pets, strict=True)]
    await memory.remember_all([*facts, *FACTS])
    for person, fact in zip(people, facts, strict=True):
        recalled = await memory.recall(f"Which pet does {person} have?", k=3)
        assert recalled.known
        assert recalled.hits[0].text == fact
        assert [hit.similarity for hit in recalled.hits] == sorted(
            (hit.similarity for hit in recalled.hits), reverse=True
        )
    assert not (await memory.recall("Quantum chromodynamics has eight gluons")).known


async def test_a_long_text_is_found_by_each_of_its_parts_and_is_one(memory: AgentMemory) -> None:
    filler = " ".join(["The weather report says that it rains in the north and that it is dry in the south."] * 12)
    text = f"{FACTS[0]}. {filler} {filler} {FACTS[1]}."
    await memory.remember("Mars has two moons")
    long = await memory.remember(text)
    assert [hit.id for hit in (await memory.recall("rain in the north", k=5)).hits].count(long.id) == 1
    assert await memory.count() == 2
    assert not (await memory.remember(text)).new
    assert [note.text for note in await memory.get(long.id)] == [text]
    await memory.update(long.id, text="short now")
    assert await texts_in(memory) == ["Mars has two moons", "short now"]
    assert len((await memory.recall(text, max_chars=5)).hits) == 1


async def test_a_text_with_a_time_to_live_is_forgotten(memory: AgentMemory) -> None:
    await memory.remember(FACTS[0])
    lasting = await memory.remember(FACTS[1], ttl_s=3600)
    (note,) = await memory.get(lasting.id)
    assert note.expires is not None
    await memory.update(lasting.id, metadata={"k": 1})
    (changed,) = await memory.get(lasting.id)
    assert changed.expires is not None
    assert abs(changed.expires - note.expires) < timedelta(seconds=30)


async def test_a_memory_that_was_deleted_meanwhile_is_made_again(memory: AgentMemory) -> None:
    await memory.remember(FACTS[0])
    await memory.at(memory.space).delete()
    assert await texts_in(memory) == []
    await memory.remember(FACTS[1])
    assert await texts_in(memory) == [FACTS[1]]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": 7}, "text"),
        ({"text": "\ud800"}, "text"),
        ({"text": "x" * 70_000}, "text"),
        ({"text": "x", "id": ""}, "id"),
        ({"text": "x", "id": "attractor:encoder"}, "id"),
        ({"text": "x", "metadata": [1]}, "metadata"),
        ({"text": "x", "metadata": {"a": {1, 2}}}, "metadata"),
        ({"text": "x", "ttl_s": -1}, "ttl_s"),
    ],
)
async def test_what_cannot_be_remembered_is_refused_with_its_field(
    memory: AgentMemory, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(attractor.InvalidRequest) as refused:
        await memory.remember(**arguments)  # type: ignore[arg-type]
    assert refused.value.violations[0][0].startswith(field)
    assert await texts_in(memory) == []


async def test_a_recall_goes_on_without_a_server_that_is_away_where_it_may(spec: ShardSpec, space: str) -> None:
    async with AsyncExitStack() as stack:
        async with serving(spec) as (shard,):
            client = await stack.enter_async_context(attractor.connect(shard.info.address, timeout_s=0.3))
        memory = AgentMemory(client, space, encoder=shared_encoder(), fail_open=True)
        assert await memory.recall("x") == Recalled(hits=(), probability=0.0, total=0, unavailable=True)
        for call in (memory.remember("x"), AgentMemory(client, space, encoder=shared_encoder()).recall("x")):
            with pytest.raises((attractor.Unavailable, attractor.TimeoutExceeded)):
                await call


def test_without_async_it_does_the_same(address: str, space: str) -> None:
    with SyncAgentMemory(address, space=space, encoder=shared_encoder()) as memory:
        first = memory.remember(FACTS[0], metadata={"n": 0})
        memory.checkpoint("start")
        memory.remember(FACTS[1])
        assert memory.recall(ABOUT_ADA, k=1).hits[0].id == first.id
        assert [note.text for note in memory.list()] == list(FACTS[:2])
        branch = memory.branch("trial")
        assert branch.forget(text=FACTS[0]) == [first.id]
        assert (branch.count(), memory.count(), memory.at(space).count()) == (1, 2, 2)
        memory.rollback("start")
        assert [note.text for note in memory.list()] == [FACTS[0]]
    with pytest.raises(attractor.Closed):
        memory.count()


async def test_a_forgotten_close_does_not_hold_the_interpreter(address: str, space: str) -> None:
    script = (
        "import sys; from attractor_agents import *; m = SyncAgentMemory(sys.argv[1], space=sys.argv[2], "
        "encoder=from_function(lambda t: [[1.0]] * len(t), name='one')); m.__enter__(); print(m.remember('x').new)"
    )
    run = await to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", script, address, space], capture_output=True, text=True, timeout=60, check=True
        )
    )
    assert run.stdout == "True\n"
