"""Memories of several pages: what they are made with, and which page answered."""

from collections.abc import AsyncIterator

import anyio
import numpy as np
import pytest
from tests.support.fake_server import FakeServer, FakeSession

import attractor
from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
SEVERAL = np.stack([ONE] * 3)


async def test_settings_that_are_not_given_are_left_to_the_server(
    client: attractor.AsyncClient, fake: FakeServer
) -> None:
    memory = await client.create_memory("faces", model="tiny")
    assert fake.created[0].settings == memories_pb2.MemorySettings()
    info = await memory.info()
    assert info.settings == attractor.MemorySettings(
        write="rewrite", when_full="grow", page_patterns=8, recall="network"
    )
    assert (info.pages, info.patterns) == (0, 0)


@pytest.mark.parametrize("write", ["rewrite", "stream"])
@pytest.mark.parametrize("when_full", ["grow", "refuse", "forget"])
async def test_settings_that_are_given_come_back(client: attractor.AsyncClient, write: str, when_full: str) -> None:
    memory = await client.create_memory(
        "faces",
        model="tiny",
        write=write,  # type: ignore[arg-type] # one of the two
        when_full=when_full,  # type: ignore[arg-type] # one of the three
        page_patterns=3,
    )
    listed = [info async for info in client.memories()]
    assert listed == [await memory.info()]
    assert (listed[0].settings.write, listed[0].settings.when_full) == (write, when_full)
    assert listed[0].settings.page_patterns == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"write": "append"}, r"write: saw 'append'; expected one of \['rewrite', 'stream'\]"),
        ({"when_full": "ignore"}, r"when_full: saw 'ignore'; expected one of \['grow', 'refuse', 'forget'\]"),
        ({"page_patterns": 0}, "page_patterns: saw 0; expected at least 1"),
        ({"page_patterns": -1}, "page_patterns: saw -1; expected at least 1"),
        ({"page_patterns": 2**32}, f"page_patterns: saw {2**32}; expected at least 1"),
    ],
)
async def test_settings_that_cannot_be_meant_are_refused_before_anything_is_sent(
    client: attractor.AsyncClient, fake: FakeServer, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(attractor.InvalidRequest, match=said) as caught:
        await client.create_memory("faces", model="tiny", **settings)  # type: ignore[arg-type] # that is the point
    assert caught.value.violations[0][0] == next(iter(settings))
    assert fake.created == []


async def test_an_answer_names_its_page(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("faces", model="tiny", page_patterns=2)
    await memory.store(ONE)
    assert (await memory.query(SEVERAL)).page.tolist() == [0, 0, 0]
    assert (await memory.recognize(SEVERAL)).page.tolist() == [0, 0, 0]
    await memory.store(SEVERAL)
    recall, familiarity = await memory.query(ONE), await memory.recognize(ONE)
    assert recall.page.shape == familiarity.page.shape == ()
    assert recall.page == familiarity.page == 1
    many = np.stack([ONE] * 300)  # more than a frame holds
    assert (await memory.query(many, trajectory=True)).page.tolist() == [1] * 300
    assert (await memory.recognize(many)).page.tolist() == [1] * 300
    assert (await memory.info()).pages == 2


async def test_each_request_of_a_frame_gets_its_own_pages(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    async def counting(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("query"):
            columns = frame.query.columns
            rows = sum(columns.patterns)
            answer = pb.RecalledFrame(request_ids=columns.request_ids, patterns=columns.patterns)
            data = np.zeros((rows, 2, 3), "<f4").tobytes()
            answer.tensors.add(field="image", dtype=pb.DTYPE_FLOAT32, shape=[rows, 2, 3], data=data)
            zeros = [0.0] * rows
            scores = {"energy_before": zeros, "energy_after": zeros, "delta_energy": zeros}
            answer.scores.CopyFrom(pb.Scores(steps=[5] * rows, pages=range(rows), **scores))
            await session.send(recalled=answer)
            yield True

    pages: list[list[int]] = []

    async def query() -> None:
        pages.append((await memory.query(SEVERAL)).page.tolist())

    await memory.store(ONE)
    fake.hook = counting
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(query)
    assert len(fake.of_kind("query")) == 1
    assert sorted(pages) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


async def test_pages_that_do_not_fit_the_answer_are_a_fault_of_the_server(
    memory: attractor.AsyncMemory, fake: FakeServer
) -> None:
    async def short(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("recognize"):
            columns = frame.recognize.columns
            answer = pb.RecognizedFrame(request_ids=columns.request_ids, patterns=columns.patterns)
            answer.energy.extend([0.0, 0.0, 0.0])
            answer.delta_energy.extend([0.0, 0.0, 0.0])
            answer.pages.append(1)
            await session.send(recognized=answer)
            yield True

    fake.hook = short
    with pytest.raises(attractor.ServerFault, match="pages: saw 1 entries; expected 3"):
        await memory.recognize(SEVERAL)


async def test_a_full_memory_has_an_error_of_its_own(memory: attractor.AsyncMemory, fake: FakeServer) -> None:
    async def refuse(session: FakeSession, frame: pb.SessionRequest) -> AsyncIterator[bool]:
        if frame.HasField("store"):
            await session.fail(list(frame.store.columns.request_ids), "FAILED_PRECONDITION", "MEMORY_FULL")
            yield True

    fake.hook = refuse
    with pytest.raises(attractor.MemoryFull) as caught:
        await memory.store(ONE)
    assert isinstance(caught.value, attractor.Refused)
    assert caught.value.reason == "MEMORY_FULL"
    assert len(fake.of_kind("store")) == 1  # waiting makes no room


def test_the_synchronous_client_makes_and_lists_the_same(server: FakeServer) -> None:
    with attractor.Client(server.address, timeout_s=20) as client:
        memory = client.create_memory("faces", model="tiny", write="stream", when_full="forget", page_patterns=2)
        memory.store(SEVERAL)
        (info,) = client.memories()
        assert info.settings == attractor.MemorySettings(
            write="stream", when_full="forget", page_patterns=2, recall="network"
        )
        assert info.pages == 2
        assert memory.query(ONE).page == 1
