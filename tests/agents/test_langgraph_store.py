"""LangGraph's store: against LangGraph's own in memory, with what is searched, filtered, refreshed and listed."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.store.base import GetOp, InvalidNamespaceError, Item, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore, _compare_values

import attractor
from attractor_agents.langgraph import AttractorStore
from attractor_agents.langgraph.filters import check_filter, encode_filter, is_covered, takes
from attractor_agents.langgraph.namespaces import memory_name, namespace_of

WORDS = ("apple", "river", "engine", "violin", "cloud", "marble")
NAMESPACES = (("users",), ("users", "ada"), ("users", "ada", "notes"), ("usersbob",), ("wörk", "a b/c"))
KEYS = tuple("abcd")


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Counts of the words, of which any two texts have other ones."""
    return [[float(text.count(word)) + 0.1 * at for at, word in enumerate(WORDS)] for text in texts]


INDEX: Any = {"dims": len(WORDS), "embed": embed, "fields": ["text"]}


@pytest.fixture
def store(address: str, space: str) -> Iterator[AttractorStore]:
    with AttractorStore(address, root=space, index=INDEX) as opened:
        yield opened


def draw_ops(random: np.random.Generator) -> Iterator[PutOp | GetOp]:
    """Puts and deletions; whether a key is searched for is the key's own."""
    for _ in range(6):
        namespace, key = NAMESPACES[random.integers(len(NAMESPACES))], KEYS[random.integers(len(KEYS))]
        text = " ".join(random.choice(WORDS, 4))
        value = {"text": text, "n": int(random.integers(4)), "deep": {"word": text.split()[0]}}
        choice = random.integers(5)
        if choice < 3:
            yield PutOp(namespace, key, value, index=False if key == "d" else None)
        elif choice == 3:
            yield PutOp(namespace, key, None)
        else:
            yield GetOp(namespace, key)


def seen(items: Sequence[Any]) -> list[tuple[Any, ...]]:
    return sorted((item.namespace, item.key, sorted(item.value.items(), key=str)) for item in items)


def scores(items: Sequence[Any]) -> dict[tuple[Any, ...], float | None]:
    return {(item.namespace, item.key): item.score for item in items}


def test_any_operations_do_what_the_store_in_memory_does(store: AttractorStore) -> None:
    random, oracle = np.random.default_rng(5), InMemoryStore(index=INDEX)
    for _ in range(5):
        ops = list(draw_ops(random))
        ours, theirs = store.batch(ops), oracle.batch(ops)
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None)
            if isinstance(one, Item) and isinstance(other, Item):
                assert seen([one]) == seen([other])
        prefix = NAMESPACES[random.integers(len(NAMESPACES))][:1]
        for conditions in (None, {"n": 2}, {"n": {"$gte": 1, "$lt": 3}}, {"deep": {"word": "river"}}, {"none": None}):
            searches = [SearchOp(where, conditions, 100) for where in (prefix, ())]
            for one, other in zip(store.batch(searches), oracle.batch(searches), strict=True):
                assert seen(one) == seen(other)  # type: ignore[arg-type]
            search = SearchOp(prefix, conditions, 100, query="river engine")
            (one,), (other,) = store.batch([search]), oracle.batch([search])
            assert scores(one).keys() == scores(other).keys()  # type: ignore[arg-type]
            found = [item.score for item in one if item.score is not None]  # type: ignore[union-attr]
            assert found == sorted(found, reverse=True)
            for key, score in scores(other).items():  # type: ignore[arg-type]
                assert scores(one)[key] == (None if score is None else pytest.approx(score, abs=1e-4))  # type: ignore[arg-type]
        there = sorted(namespace for namespace, items in oracle._data.items() if items)
        assert store.list_namespaces() == there
        assert store.list_namespaces(prefix=("users", "*")) == [
            one for one in there if len(one) > 1 and one[0] == "users"
        ]
        assert store.list_namespaces(max_depth=1) == sorted({one[:1] for one in there})


def test_reads_of_a_batch_see_what_was_before_its_writes_and_the_last_put_of_a_key_wins(store: AttractorStore) -> None:
    store.put(("a",), "k", {"text": "apple"})
    before = store.get(("a",), "k")
    assert before is not None
    get, *puts = GetOp(("a",), "k"), *(PutOp(("a",), "k", {"text": text}) for text in ("river", "engine"))
    read, *_ = store.batch([get, *puts])
    assert isinstance(read, Item)
    assert read.value == {"text": "apple"}
    (after,) = store.batch([get])
    assert isinstance(after, Item)
    assert after.value == {"text": "engine"}
    assert (after.created_at, after.updated_at > before.updated_at) == (before.created_at, True)


def test_results_come_in_pages_the_nearest_first_and_those_without_a_text_last(store: AttractorStore) -> None:
    for at, word in enumerate(WORDS):
        store.put(("docs",), word, {"text": f"{word} {word} violin", "at": at})
    store.put(("docs",), "plain", {"text": "violin"}, index=False)
    whole = store.search(("docs",), query="violin", limit=10)
    assert [item.key for item in whole][:1] == ["violin"]
    assert whole[-1].key == "plain"
    assert whole[-1].score is None
    pages = [store.search(("docs",), query="violin", limit=3, offset=offset) for offset in (0, 3)]
    assert sorted(item.key for page in pages for item in page) == sorted(WORDS)
    assert len(store.search(("docs",), limit=4)) == 4
    assert len(store.search(("docs",), limit=4, offset=5)) == 2
    assert [item.key for item in store.search(("docs",), query="violin", filter={"at": 1})][:1] == ["river"]


def test_an_item_is_found_by_each_of_its_texts_and_once(store: AttractorStore) -> None:
    store.put(("a",), "both", {"x": "apple apple apple", "y": "river river river"}, index=["x", "y"])
    store.put(("a",), "one", {"x": "cloud cloud", "y": "apple"}, index=["x"])
    for query in ("apple apple", "river river"):
        found = store.search(("a",), query=query)
        assert [item.key for item in found] == ["both", "one"]
        assert found[0].score is not None
        assert found[0].score > 0.95
    store.put(("a",), "both", {"x": "cloud"}, index=False)
    assert scores(store.search(("a",), query="river"))[("a",), "both"] is None


def test_what_has_a_time_to_live_has_it_anew_when_it_is_read(address: str, space: str) -> None:
    with (
        AttractorStore(address, root=space, index=INDEX, ttl={"default_ttl": 60, "refresh_on_read": True}) as store,
        attractor.Client(address) as client,
    ):
        store.put(("a",), "k", {"text": "apple"}, ttl=60)
        store.put(("a",), "forever", {"text": "river"}, ttl=None)
        memory = client.memory(memory_name(space, ("a",)))

        def hours_left() -> float:
            (item,) = memory.items.get("=k")
            assert item.expires is not None
            return (item.expires - datetime.now(UTC)) / timedelta(hours=1)

        assert hours_left() == pytest.approx(1, abs=0.05)
        for read in (lambda: store.get(("a",), "k"), lambda: store.search(("a",), query="apple")):
            memory.items.touch("=k", ttl_s=600)
            assert hours_left() < 0.2
            read()
            assert hours_left() == pytest.approx(1, abs=0.05)
        memory.items.touch("=k", ttl_s=600)
        store.get(("a",), "k", refresh_ttl=False)
        assert hours_left() < 0.2
        (item,) = memory.items.get("=forever")
        assert item.expires is None


async def test_graphs_with_async_use_it_from_any_loop(address: str, space: str) -> None:
    async with AttractorStore(address, root=space, index=INDEX) as store:
        await store.aput(("a", "b"), "k", {"text": "apple"})
        item = await store.aget(("a", "b"), "k")
        assert item is not None
        assert item.value == {"text": "apple"}
        assert [one.key for one in await store.asearch(("a",), query="apple")] == ["k"]
        assert await store.alist_namespaces() == [("a", "b")]
        await store.adelete(("a", "b"), "k")
        assert await store.alist_namespaces() == []
        assert await store.asearch(("nowhere",), query="apple") == []


def test_what_cannot_be_is_refused(store: AttractorStore) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.batch([GetOp(("a.b",), "k")])
    with pytest.raises(InvalidNamespaceError, match="expected at most 256 characters"):
        store.put(("ä" * 100,), "k", {})
    with pytest.raises(attractor.InvalidRequest, match="key: saw 300 characters"):
        store.put(("a",), "k" * 300, {})
    with pytest.raises(ValueError, match=r"filter\['n'\]: saw '\$like'; expected one of \$eq"):
        store.search(("a",), filter={"n": {"$like": "x"}})
    with pytest.raises(TypeError, match="saw str"):
        store.batch(["get"])  # type: ignore[list-item]


LABELS = st.lists(st.text(min_size=1, max_size=6).filter(lambda label: not set(label) & {".", "\0"}), min_size=1).map(
    tuple
)


@settings(max_examples=50, deadline=None)
@given(LABELS, LABELS)
def test_names_of_memories_are_namespaces_and_nothing_else(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    try:
        names = memory_name("root", one), memory_name("root", other)
    except (InvalidNamespaceError, UnicodeEncodeError):
        return
    assert namespace_of("root", names[0]) == one
    assert (names[0] == names[1]) == (one == other)
    assert f"{names[0]}/".startswith(f"{names[1]}/") == (one[: len(other)] == other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
    max_leaves=4,
)
VALUES = st.dictionaries(st.sampled_from(["x", "y"]), JSON, max_size=2)


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_filters_take_what_langgraph_takes(value: dict[str, Any], wanted: dict[str, Any]) -> None:
    check_filter(wanted)
    assert takes(wanted, value) == all(_compare_values(value.get(key), one) for key, one in wanted.items())


def test_conditions_for_the_server_are_those_that_say_the_same_there() -> None:
    assert encode_filter({"a": 1, "b": {"c": "x", "d": {"$gt": 2}}}, "value") == {
        "value.a": 1,
        "value.b.c": "x",
        "value.b.d": {"$gt": 2},
    }
    assert is_covered({"a": 1, "b": {"c": "x", "d": {"$gt": 2}}})
    unsure: dict[str, Any]
    for unsure in (
        {"a": None},
        {"a": True},
        {"a": [1]},
        {"a.b": 1},
        {"a": {"$ne": None}},
        {"a": {"$lt": math.inf}},
        {"a": {}},
    ):
        assert encode_filter(unsure, "value") == {}
        assert not is_covered(unsure)
    assert takes({"n": {"$lt": math.inf}}, {"n": 1})
    assert takes({"user.level": 2}, {"user": {"level": 2}})
    assert takes({"user.level": 2}, {"user.level": 2})
    assert not takes({"n": {"$gt": 1}}, {"n": "many"})
