"""Stores, queries and recognitions over one healthy server."""

from collections.abc import AsyncIterator, Iterator

import anyio
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from tests.support.fake_server import FakeServer, FakeSession

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb

Floats = NDArray[np.float32]
ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)


async def test_a_store_tells_the_version_and_the_number_of_patterns(memory: attractor.AsyncMemory) -> None:
    assert await memory.store(np.stack([ONE, ONE])) == attractor.StoreResult(version=1, total=2)
    assert await memory.store(ONE) == attractor.StoreResult(version=2, total=3)


async def test_a_single_cue_is_answered_without_a_batch_axis(memory: attractor.AsyncMemory) -> None:
    recall = await memory.query(ONE)
    assert_array_equal(recall.pattern, ONE)
    assert recall.energy_before.shape == recall.delta_energy.shape == recall.steps.shape == ()
    assert recall.trajectory is None
    assert (await memory.recognize(ONE)).energy.shape == ()


async def test_a_batch_of_one_is_answered_as_a_batch(memory: attractor.AsyncMemory) -> None:
    recall = await memory.query(ONE[None])
    assert recall.pattern.shape == (1, 2, 3)
    assert recall.energy_after.shape == recall.steps.shape == (1,)
    assert (await memory.recognize(ONE[None])).delta_energy.shape == (1,)


async def test_familiarity_has_a_probability_where_the_server_gives_one(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    await memory.store(np.stack([ONE, ONE]))
    assert (await memory.recognize(ONE)).probability is None
    fake.calibrated = True
    single, batch = await memory.recognize(ONE), await memory.recognize(np.stack([ONE] * 300))  # more than a frame
    assert single.probability is not None
    assert single.probability.shape == ()
    assert single.probability == 0.875
    assert batch.probability is not None
    assert_array_equal(batch.probability, np.full(300, 0.875))


async def test_a_trajectory_comes_with_its_energies_when_asked_for(memory: attractor.AsyncMemory) -> None:
    recall = await memory.query(np.stack([ONE, 1 - ONE]), steps=3, trajectory=True)
    assert recall.trajectory is not None
    assert recall.trajectory.pattern.shape == (3, 2, 2, 3)
    assert_array_equal(recall.trajectory.energy, [[0, 0], [1, 1], [2, 2]])
    assert recall.steps.tolist() == [3, 3]


async def test_several_fields_go_and_come_by_name(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("pairs", model="pair")
    recall = await memory.query({"value": np.ones(2, np.float16), "key": np.zeros(3, np.float32)})
    assert set(recall.fields) == {"key", "value"}
    assert_array_equal(recall.fields["value"], [1, 1])
    with pytest.raises(attractor.InvalidRequest, match="key"):
        _ = recall.pattern


async def test_concurrent_calls_share_few_frames(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    await memory.query(ONE)
    before = len(fake.of_kind("query"))
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(memory.query, ONE)
    frames = fake.of_kind("query")[before:]
    assert sum(len(frame.query.columns.request_ids) for frame in frames) == 100
    assert len(frames) <= 2


async def test_calls_of_many_memories_share_a_frame(client: attractor.AsyncClient, fake: FakeServer) -> None:
    memories = [await client.create_memory(f"m{number}", model="tiny") for number in range(5)]
    for memory in memories:
        await memory.query(ONE)
    before = len(fake.of_kind("query"))
    async with anyio.create_task_group() as tasks:
        for memory in memories:
            tasks.start_soon(memory.query, ONE)
    assert len(fake.of_kind("query")) == before + 1
    assert len(set(fake.of_kind("query")[-1].query.columns.handles)) == 5


async def test_frames_stay_within_the_patterns_limit(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(300):
            tasks.start_soon(memory.query, np.stack([ONE, ONE]))
    assert all(sum(frame.query.columns.patterns) <= 256 for frame in fake.of_kind("query"))


async def test_stores_and_queries_of_a_memory_keep_their_order(memory: attractor.AsyncMemory) -> None:
    seen: dict[int, float] = {}

    async def query(place: int) -> None:
        seen[place] = float((await memory.query(ONE)).energy_before)

    async with anyio.create_task_group() as tasks:
        for place in range(20):
            tasks.start_soon(memory.store, ONE)
            tasks.start_soon(query, place)
    assert seen == {place: place + 1 for place in range(20)}


async def test_stores_are_numbered_from_one_in_each_memory(client: attractor.AsyncClient, fake: FakeServer) -> None:
    for name in ("a", "b"):
        memory = await client.create_memory(name, model="tiny")
        for _ in range(2):
            await memory.store(ONE)
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [2], [1], [2]]


async def test_numbers_go_on_after_those_the_server_has_seen(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    fake.last_sequence = 7
    await memory.store(ONE)
    assert list(fake.of_kind("store")[0].store.sequences) == [8]


async def test_masks_of_a_frame_are_one_stream_of_bits(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    await memory.query(ONE)
    known = np.array([[True, False, False], [False, False, True]])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(memory.query, ONE)
        for _ in range(2):
            tasks.start_soon(lambda: memory.query(np.stack([ONE, ONE]), known=known))
    tensor = fake.of_kind("query")[-1].query.columns.tensors[0]
    bits = np.unpackbits(np.frombuffer(tensor.known, np.uint8), bitorder="little")[:30]
    assert_array_equal(bits, np.concatenate([np.zeros(6), np.tile(known.ravel(), 4)]))
    assert len(tensor.known) == 4


async def test_deadlines_are_sent_along(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    await memory.query(ONE, timeout_s=3)
    await memory.query(ONE, timeout_s=float("inf"))
    first, second = (list(frame.query.columns.deadline_ms) for frame in fake.of_kind("query"))
    assert 1 <= first[0] <= 3000
    assert second == []


async def test_a_query_of_more_patterns_than_a_frame_holds_is_split(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    cues = np.linspace(0, 1, 3600, dtype=np.float32).reshape(600, 2, 3)
    recall = await memory.query(cues, trajectory=True)
    assert_array_equal(recall.pattern, cues)
    assert recall.trajectory is not None
    assert recall.trajectory.pattern.shape == (3, 600, 2, 3)
    assert recall.energy_before.shape == (600,)
    assert len(fake.of_kind("query")) == 3
    assert (await memory.recognize(cues)).energy.shape == (600,)


async def test_a_store_of_more_patterns_than_a_frame_holds_is_refused(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    with pytest.raises(attractor.InvalidRequest, match=r"too many items: saw 257 .* at most 256"):
        await memory.store(np.zeros((257, 2, 3), np.float32))
    assert not fake.of_kind("store")


async def test_more_patterns_than_the_window_wait_for_answers(fake: FakeServer) -> None:
    held, release = anyio.Event(), anyio.Event()

    async def hold(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("query") and not held.is_set():
            held.set()
            await release.wait()
        yield False

    fake.add("faces")
    fake.hook = hold
    async with attractor.connect(fake.address, in_flight_patterns=4) as client, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(client.memory("faces").query, ONE)
        with anyio.fail_after(10):
            await held.wait()
        release.set()
    sizes = [sum(frame.query.columns.patterns) for frame in fake.of_kind("query")]
    assert sum(sizes) == 20
    assert max(sizes) <= 4


async def test_a_stream_answers_in_order_from_any_kind_of_iterable(memory: attractor.AsyncMemory) -> None:
    async def numbered() -> AsyncIterator[Floats]:
        for number in range(50):
            yield np.full((2, 3), number / 50, np.float32)

    async with memory.stream() as stream:
        stored = [result.total async for result in stream.store([ONE] * 30)]
        recalled = [float(recall.pattern[0, 0]) async for recall in stream.query(numbered())]
    assert stored == list(range(1, 31))
    assert_allclose(recalled, np.arange(50) / 50, rtol=1e-6)


async def test_a_stream_takes_no_more_than_its_bound_ahead(memory: attractor.AsyncMemory) -> None:
    taken = 0

    def source() -> Iterator[Floats]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield ONE

    async with memory.stream(in_flight_patterns=8) as stream:
        answers = stream.query(source())
        with anyio.fail_after(10):
            for answered in range(1, 50):
                await anext(answers)
                assert taken <= answered + 8


async def test_a_cue_in_a_stream_may_bring_its_own_mask(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    known = np.ones((2, 3), np.bool_)
    async with memory.stream() as stream:
        assert len([recall async for recall in stream.query([attractor.Cue(ONE, known), ONE])]) == 2
    masks = b"".join(frame.query.columns.tensors[0].known for frame in fake.of_kind("query"))
    assert np.unpackbits(np.frombuffer(masks, np.uint8)).sum() == 6


async def test_a_bad_item_in_a_stream_raises_in_its_turn(memory: attractor.AsyncMemory) -> None:
    async with memory.stream() as stream:
        results = stream.store([ONE, ONE, np.zeros((2, 2), np.float32), ONE])
        assert [(await anext(results)).total for _ in range(2)] == [1, 2]
        with pytest.raises(attractor.InvalidRequest, match=r"\(2, 2\)"):
            await anext(results)


async def test_leaving_a_stream_early_cancels_what_is_under_way(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def silent(_: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        yield frame.HasField("query")

    fake.hook = silent
    async with memory.stream() as stream:
        stream.query([ONE])
        await fake.until(lambda: bool(fake.of_kind("query")))
    await fake.until(lambda: bool(fake.of_kind("cancel")))
    sent = fake.of_kind("query")[0].query.columns.request_ids
    assert list(fake.of_kind("cancel")[0].cancel.request_ids) == list(sent)


async def test_several_tasks_may_share_the_answers_of_a_stream(memory: attractor.AsyncMemory) -> None:
    more, totals = anyio.Event(), list[int]()

    async def late() -> AsyncIterator[Floats]:
        await more.wait()
        for _ in range(4):
            yield ONE
            await anyio.lowlevel.checkpoint()

    async def consume() -> None:
        totals.extend([result.total async for result in answers])

    with anyio.fail_after(20):
        async with memory.stream() as stream, anyio.create_task_group() as tasks:
            answers = stream.store(late())
            for _ in range(3):
                tasks.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
            more.set()
    assert sorted(totals) == [1, 2, 3, 4]


async def test_answers_asked_for_after_a_stream_was_left_are_refused(memory: attractor.AsyncMemory) -> None:
    with anyio.fail_after(20):
        async with memory.stream() as stream:
            finished, fed, unfed = stream.query([]), stream.query([ONE]), stream.query([ONE])
            assert [recall async for recall in finished] == []
            await anext(fed)
            late = stream.query([ONE])
        for answers in (unfed, late):
            with pytest.raises(attractor.Closed, match="left"):
                await anext(answers)
            with pytest.raises(StopAsyncIteration):
                await anext(answers)
        assert [recall async for recall in finished] == []


async def test_a_stream_forgets_what_was_answered(memory: attractor.AsyncMemory) -> None:
    async with memory.stream() as stream:
        for _ in range(5):
            assert len([recall async for recall in stream.query([ONE, ONE])]) == 2
        assert len(stream._pipelines) == 1


async def test_memories_are_listed_over_all_pages(client: attractor.AsyncClient) -> None:
    for name in ("b/1", "a/3", "a/1", "a/2", "a/5", "a/4"):
        await client.create_memory(name, model="tiny")
    assert [memory.name async for memory in client.memories("a/")] == [f"a/{number}" for number in range(1, 6)]


async def test_models_tell_their_fields(client: attractor.AsyncClient) -> None:
    assert [model.name for model in await client.models()] == ["tiny", "pair"]
    field = (await client.model("tiny")).fields[0]
    assert field == attractor.FieldInfo(name="image", kind="image", shape=(2, 3))


async def test_a_memory_made_anew_counts_its_stores_anew(client: attractor.AsyncClient, fake: FakeServer) -> None:
    memory = await client.create_memory("faces", model="tiny")
    await memory.store(ONE)
    await client.delete_memory("faces")
    await client.create_memory("faces", model="tiny")
    await memory.store(ONE)
    await client.delete_memory("faces")
    assert [list(frame.store.sequences) for frame in fake.of_kind("store")] == [[1], [1]]
    with pytest.raises(attractor.MemoryNotFound):
        await memory.query(ONE)
