"""Text fields: characters go as places in an alphabet, and come back as strings."""

import numpy as np
import pytest
from grpc import StatusCode, aio
from tests.support import raw
from tests.support.raw import tensor
from tests.support.tiny_models import WORD

import attractor
from attractor import MISSING
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_data_pb2 as pb

KEYS = np.random.default_rng(6).random((2, 8), dtype=np.float32)
TEXT = "dabbed"


def places(*texts: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.array([[WORD.alphabet.index(c) for c in text.ljust(6)] for text in texts], np.uint8)


@pytest.fixture
async def notes(client: attractor.AsyncClient) -> attractor.AsyncMemory:
    memory = await client.create_memory("notes", model="note")
    await memory.store({"word": TEXT, "key": KEYS[0]})
    return memory


async def test_the_model_tells_the_alphabet(client: attractor.AsyncClient, channel: aio.Channel) -> None:
    word, key = (await client.model("note")).fields
    assert (word.kind, word.shape, word.alphabet, key.alphabet) == ("text", (6,), " abcde", "")
    answer = await memories_pb2_grpc.ModelsStub(channel).Get(memories_pb2.ModelsGetRequest(name="note"))
    assert answer.model.fields[0].alphabet == " abcde"


async def test_a_stored_text_is_completed_from_some_of_its_characters(notes: attractor.AsyncMemory) -> None:
    recall = await notes.query({"word": f"da{MISSING}b{MISSING}d"})
    assert recall.text("word") == recall.text() == TEXT
    assert recall.texts == {"word": TEXT}
    assert recall.fields["word"].tolist() == places(TEXT)[0].tolist()
    batch = await notes.query({"word": [f"da{MISSING}bed", MISSING + "abbed"]})
    assert batch.text() == [TEXT, TEXT]
    by_key = await notes.query({"key": KEYS[0]})
    assert by_key.text("word") == TEXT
    assert (by_key.energy_before != batch.energy_before).all()


async def test_a_missing_character_is_what_one_left_out_is(notes: attractor.AsyncMemory) -> None:
    nothing = await notes.query({"word": 6 * MISSING, "key": KEYS[1]})
    left_out = await notes.query({"key": KEYS[1]})
    given = await notes.query({"word": "abba", "key": KEYS[1]})
    assert nothing.energy_before == left_out.energy_before != given.energy_before
    assert nothing.texts == left_out.texts


async def test_known_characters_are_held_and_a_short_text_ends_in_spaces(notes: attractor.AsyncMemory) -> None:
    known = np.array([True, True, True, True, False, False])
    recall = await notes.query({"word": "abba", "key": KEYS[0]}, known={"word": known})
    free = await notes.query({"word": "abba", "key": KEYS[0]})
    assert str(recall.text())[:4] == "abba"
    assert str(free.text())[:4] != "abba"
    whole = await notes.query({"word": ["abba", "a b"]}, known={"word": np.ones(6, np.bool_)})
    assert whole.text() == ["abba", "a b"]
    assert (whole.fields["word"] == places("abba", "a b")).all()


async def test_places_may_be_given_as_numbers_and_answers_given_back(notes: attractor.AsyncMemory) -> None:
    as_text = await notes.recognize({"word": ["abba", "d" + 5 * MISSING]})
    floats = places("abba", "d").astype(np.float32)
    floats[1, 1:] = np.nan
    as_floats = await notes.recognize({"word": floats})
    as_bytes = await notes.recognize({"word": np.where(np.isnan(floats), 255, floats).astype(np.uint8)})
    assert (as_text.energy == as_floats.energy).all()
    assert (as_text.energy == as_bytes.energy).all()
    assert as_text.energy[0] != as_text.energy[1]
    recall = await notes.query({"key": KEYS})
    assert (await notes.store(recall.fields)).total == 3


@pytest.mark.parametrize(
    ("word", "seen"),
    [
        ("decades", r"patterns\[word\]: saw 7 characters; expected at most 6"),
        ("fee", r"patterns\[word\]: saw the character 'f'; expected those of ' abcde'"),
        (["abba", "ébbé"], r"saw the character 'é'"),
        ("dec" + MISSING, r"saw the character '�'"),
        (places(TEXT)[0] + 1, r"saw numbers from 2 to 6; expected whole ones from 0 to 5"),
        (np.full(6, 0.5), "saw numbers from 0.5"),
        (np.full(6, np.nan), "saw a missing character"),
        (np.full(6, 255, np.uint8), "saw a missing character"),
        (np.zeros(6, np.bool_), "saw dtype bool; expected a str"),
        (np.zeros(5), r"saw shape \(5,\)"),
    ],
)
async def test_what_is_no_text_of_the_field_is_refused(
    notes: attractor.AsyncMemory, word: attractor.Patterns, seen: str
) -> None:
    key = KEYS if isinstance(word, list) else KEYS[0]
    with pytest.raises(attractor.InvalidRequest, match=seen):
        await notes.store({"word": word, "key": key})  # type: ignore[dict-item]
    assert (await notes.info()).version == 1


async def test_a_model_without_a_text_has_none_to_give(client: attractor.AsyncClient) -> None:
    memory = await client.create_memory("pairs", model="pair")
    recall = await memory.query({"key": KEYS})
    assert recall.texts == {}
    with pytest.raises(attractor.InvalidRequest, match=r"saw 'key'; expected one of the text fields \[\]"):
        recall.text("key")


async def test_the_server_checks_texts_itself(channel: aio.Channel) -> None:
    await raw.create(channel, "a", "note")
    stub = memory_data_pb2_grpc.MemoryDataStub(channel)
    key, good = tensor(KEYS[:1], field="key"), places(TEXT)
    gap, strange = good.copy(), good.copy()
    gap[0, 1], strange[0, 2] = 255, 6
    for word, field, said in (
        (gap, "tensors[word]", "saw 255, a missing character, in pattern 0, entry 1; expected 0 to 5"),
        (strange, "tensors[word]", "saw 6 in pattern 0, entry 2; expected 0 to 5, places in the alphabet"),
        (good.astype(np.float32), "tensors[0].dtype", "saw 1; expected one of ['DTYPE_UINT8'] for text 'word'"),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Store(pb.StoreRequest(memory="a", tensors=[tensor(word, field="word"), key]))
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT
        where, seen = raw.violation(raw.status_of(caught.value))
        assert where == field
        assert said in seen
    with pytest.raises(aio.AioRpcError):
        await stub.Query(pb.QueryRequest(memory="a", tensors=[tensor(strange, field="word")]))
    answer = await stub.Query(pb.QueryRequest(memory="a", tensors=[tensor(gap, field="word")]))
    assert [one.dtype for one in answer.tensors] == [pb.DTYPE_FLOAT32] * 2
