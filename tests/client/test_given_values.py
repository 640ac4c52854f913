"""What users give besides patterns: addresses, names, settings, ids and payloads; refused where it cannot be meant."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

import numpy as np
import pytest

import attractor
from attractor._arguments import parse_address
from attractor._payloads import decode_payload, encode_items

HALF = "\ud800"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost", "localhost:7171"),
        ("localhost:7000", "localhost:7000"),
        ("10.0.0.1", "10.0.0.1:7171"),
        ("::1", "[::1]:7171"),
        ("[::1]", "[::1]:7171"),
        ("[::1]:7000", "[::1]:7000"),
        ("unix:/run/attractor", "unix:/run/attractor"),
        ("dns:///localhost:7171", "dns:///localhost:7171"),
    ],
)
def test_an_address_without_a_port_means_the_usual_one(given: str, meant: str) -> None:
    assert parse_address(given) == meant


@pytest.mark.parametrize(
    "given", [None, 7171, b"localhost", "", "http://localhost:7171", "https://localhost", "localhost:", "a:b", "a b:1"]
)
def test_what_can_be_no_address_is_refused_at_once(given: str) -> None:
    for make in (attractor.connect, attractor.Client):
        with pytest.raises(attractor.InvalidRequest, match=r"address: saw .*; expected HOST or HOST:PORT") as caught:
            make(given)
        assert ("without a scheme" in str(caught.value)) == ("://" in str(given))


CALLS: dict[str, tuple[str, Callable[[attractor.AsyncClient, attractor.AsyncMemory], Awaitable[object]]]] = {
    "create": ("name", lambda client, _: client.create_memory(HALF, model="tiny")),
    "create by number": ("name", lambda client, _: client.create_memory(5, model="tiny")),  # type: ignore[arg-type]
    "create of a model": ("model", lambda client, _: client.create_memory("a", model=None)),  # type: ignore[arg-type]
    "get": ("name", lambda client, _: client.get_memory(HALF)),
    "delete": ("name", lambda client, _: client.delete_memory(None)),  # type: ignore[arg-type]
    "model": ("name", lambda client, _: client.model(HALF)),
    "list": ("prefix", lambda client, _: anext(aiter(client.memories(HALF)))),
    "fork": ("name", lambda _, memory: memory.fork(HALF)),
    "snapshot": ("tag", lambda _, memory: memory.snapshot(5)),  # type: ignore[arg-type]
    "restore": ("tag", lambda _, memory: memory.restore(HALF)),
    "rebuild": ("model", lambda _, memory: memory.rebuild(model=HALF)),
    "rebuild in pages": ("page_patterns", lambda _, memory: memory.rebuild(page_patterns=1.5)),  # type: ignore[arg-type]
    "import": ("name", lambda client, _: client.import_memory("file", name=HALF)),
    "ttl as text": ("ttl_s", lambda client, _: client.create_memory("a", model="tiny", ttl_s="60")),  # type: ignore[arg-type]
    "ttl as time": (
        "ttl_s",
        lambda client, _: client.create_memory("a", model="tiny", ttl_s=timedelta(minutes=1)),  # type: ignore[arg-type]
    ),
    "pages as text": (
        "page_patterns",
        lambda client, _: client.create_memory("a", model="tiny", page_patterns="8"),  # type: ignore[arg-type]
    ),
    "a list for a word": (
        "write",
        lambda client, _: client.create_memory("a", model="tiny", write=["rewrite"]),  # type: ignore[arg-type]
    ),
    "id": ("ids[0]", lambda _, memory: memory.store(np.zeros((2, 3), np.float32), ids=HALF)),
}


@pytest.mark.parametrize("case", CALLS)
async def test_what_no_message_can_hold_is_an_error_of_attractors(
    client: attractor.AsyncClient, memory: attractor.AsyncMemory, case: str
) -> None:
    argument, call = CALLS[case]
    with pytest.raises(attractor.InvalidRequest) as caught:
        await call(client, memory)
    assert caught.value.violations[0][0] == argument


@pytest.mark.parametrize("payload", [{1: "a"}, {"a": [{None: 1}]}, {True: 1}, [{1.5: 1}], {1: "a", "1": "b"}])
def test_keys_that_json_would_change_are_refused(payload: object) -> None:
    with pytest.raises(attractor.InvalidRequest, match=r"payloads\[0\]: saw the key .*; expected keys .* that are str"):
        encode_items(None, payload, rows=1, single=True)


def test_a_tuple_that_json_would_make_a_list_is_refused() -> None:
    with pytest.raises(attractor.InvalidRequest, match=r"payloads\[0\]: saw a tuple"):
        encode_items(None, {"a": (1, 2)}, rows=1, single=True)


@pytest.mark.parametrize("payload", [{"a": {"b": [1, 2.5, None, True, "x"]}}, [], {}, "", 0, False])
def test_what_json_can_say_comes_back_as_it_was(payload: object) -> None:
    (item,) = encode_items(None, payload, rows=1, single=True)
    back = decode_payload(item)
    assert (json.dumps(back), type(back)) == (json.dumps(payload), type(payload))


def test_a_payload_that_holds_itself_is_refused() -> None:
    payload: dict[str, object] = {}
    payload["self"] = payload
    with pytest.raises(attractor.InvalidRequest, match="which JSON cannot say"):
        encode_items(None, payload, rows=1, single=True)


def test_ids_may_be_an_array() -> None:
    assert [item.id for item in encode_items(np.array(["a", "bc"]), None, rows=2, single=False)] == ["a", "bc"]
    assert [item.id for item in encode_items(np.array("a"), None, rows=1, single=True)] == ["a"]
    with pytest.raises(attractor.InvalidRequest, match="ids: saw 3 of them; expected a list of 2"):
        encode_items(np.array(["a", "b", "c"]), None, rows=2, single=False)
