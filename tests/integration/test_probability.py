"""Recognizing with a probability, where the model was calibrated."""

from dataclasses import replace

import numpy as np
import pytest
from grpc import aio
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from tests.support import raw
from tests.support.raw import columns, raw_session, tensor
from tests.support.tiny_models import CALIBRATION, IMAGE, able_model

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.memories.outcomes import Recognized
from attractor_server.rpc.responses import PendingResponse, pack_frames

KNOWN, STRANGE = np.random.default_rng(9).random((2, 3, 4, 4), dtype=np.float32)


def expected(delta_energy: NDArray[np.float32], stored: int) -> NDArray[np.float32]:
    intercept, slope, by_count = CALIBRATION
    odds = np.exp(intercept + slope * delta_energy + by_count * np.log1p(stored))
    return np.asarray(odds / (1 + odds), np.float32)


async def test_the_probability_is_that_of_the_calibration_and_of_what_the_memory_holds(
    client: attractor.AsyncClient,
) -> None:
    memory = await client.create_memory("a", model="able")
    empty = await memory.recognize(KNOWN)
    assert empty.probability is not None
    assert_allclose(empty.probability, expected(np.zeros(3, np.float32), 0), rtol=1e-5)
    await memory.store(KNOWN)
    known, strange = await memory.recognize(KNOWN), await memory.recognize(STRANGE)
    for told in (known, strange):
        assert told.probability is not None
        assert_allclose(told.probability, expected(told.delta_energy, 3), rtol=1e-4)
        assert ((told.probability >= 0) & (told.probability <= 1)).all()
    assert known.probability is not None
    assert strange.probability is not None
    assert known.probability.mean() > strange.probability.mean()


@pytest.mark.parametrize("model", ["tiny", "able"])
async def test_a_model_that_was_not_calibrated_gives_none_in_either_way(channel: aio.Channel, model: str) -> None:
    await raw.create(channel, "a", model)
    unary = await memory_data_pb2_grpc.MemoryDataStub(channel).Recognize(
        pb.RecognizeRequest(memory="a", tensors=[tensor(KNOWN)])
    )
    assert len(unary.probability) == (3 if model == "able" else 0)
    async with raw_session(channel) as session:
        await session.open("a", 1)
        frame = pb.RecognizeFrame(columns=columns([1], [1], tensor(KNOWN), rows=3))
        answer = await session.ask(pb.SessionRequest(recognize=frame))
    assert answer.recognized.probability == unary.probability


def test_answers_with_and_without_share_no_frame() -> None:
    layout = able_model("able", IMAGE).layout
    plain = Recognized(energy=np.zeros(2, np.float32), delta_energy=np.zeros(2, np.float32))
    told = replace(plain, probability=np.array([0.25, 0.5], np.float32))
    items = [PendingResponse(content, number, layout) for number, content in enumerate((plain, told, told, plain))]
    frames = [frame.recognized for frame, _ in pack_frames(items, 1 << 20)]
    assert [list(frame.request_ids) for frame in frames] == [[0], [1, 2], [3]]
    assert [list(frame.probability) for frame in frames] == [[], [0.25, 0.5, 0.25, 0.5], []]
