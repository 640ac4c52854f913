"""LangChain's vector store and retriever."""

from collections.abc import Iterator

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from tests.support.text_memories import ABOUT_ADA, FACTS, shared_encoder

import attractor
from attractor_agents.langchain import AttractorRetriever, AttractorVectorStore


class MiniLMEmbeddings(Embeddings):
    """LangChain's face of the encoder that ships."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in shared_encoder().encode(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def store(address: str, space: str) -> Iterator[AttractorVectorStore]:
    embeddings = MiniLMEmbeddings()
    with AttractorVectorStore(embeddings, space=space, address=address, name=shared_encoder().name) as opened:
        yield opened


def documents() -> list[Document]:
    return [Document(id=f"d{n}", page_content=text, metadata={"n": n}) for n, text in enumerate(FACTS)]


def test_documents_are_added_found_by_id_and_deleted(store: AttractorVectorStore) -> None:
    assert store.similarity_search("anything") == []
    assert store.add_documents(documents()) == [f"d{n}" for n in range(5)]
    assert store.get_by_ids(["d1", "nothing"]) == [documents()[1]]
    changed = Document(id="d1", page_content="The key is in the drawer", metadata={"n": 1})
    assert store.add_documents([changed]) == ["d1"]
    assert store.get_by_ids(["d1"]) == [changed]
    assert store.delete(["d0", "nothing"])
    assert store.get_by_ids(["d0", "d2"]) == [documents()[2]]
    (made,) = store.add_texts(["Mars has two moons"])
    assert store.get_by_ids([made])[0].page_content == "Mars has two moons"
    assert store.delete()
    assert store.get_by_ids(["d2", made]) == []


def test_the_nearest_come_first_with_their_cosines(store: AttractorVectorStore) -> None:
    store.add_documents(documents())
    found = store.similarity_search_with_score(ABOUT_ADA, k=3)
    assert found[0][0] == documents()[0]
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    vectors = shared_encoder().encode([ABOUT_ADA, FACTS[0]])
    assert scores[0] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-3)
    assert store.similarity_search_by_vector(vectors[0].tolist(), k=1) == [documents()[0]]
    assert [one.id for one in store.similarity_search(ABOUT_ADA, filter={"n": {"$gt": 3}})] == ["d4"]
    ((_, relevance),) = store.similarity_search_with_relevance_scores(ABOUT_ADA, k=1)
    assert relevance == pytest.approx(scores[0])


def test_diverse_documents_leave_out_what_says_the_same(store: AttractorVectorStore) -> None:
    store.add_texts(["Ada flies to Oslo on Tuesday", "Ada flies to Oslo on Tuesday!", "Ada has a house in Bergen"])
    plain = {one.page_content for one in store.similarity_search(ABOUT_ADA, k=2)}
    diverse = {one.page_content for one in store.max_marginal_relevance_search(ABOUT_ADA, k=2, lambda_mult=0.2)}
    assert "Ada has a house in Bergen" in diverse - plain


def test_a_retriever_brings_what_is_meant_and_nothing_where_nothing_is_known(store: AttractorVectorStore) -> None:
    store.add_documents(documents())
    retriever = AttractorRetriever(store=store, min_probability=0.5)
    (found,) = retriever.invoke(ABOUT_ADA)
    assert found.id == "d0"
    assert found.metadata["probability"] > 0.5
    assert retriever.invoke("the tallest mountain of the moon") == []


async def test_async_chains_use_it_as_well(store: AttractorVectorStore) -> None:
    assert await store.aadd_documents(documents()) == [f"d{n}" for n in range(5)]
    assert await store.asimilarity_search(ABOUT_ADA, k=1) == [documents()[0]]
    assert [one.id for one in await AttractorRetriever(store=store, k=1).ainvoke(ABOUT_ADA)] == ["d0"]
    assert await store.adelete(["d0"])


def test_other_embeddings_in_the_same_space_are_a_conflict(store: AttractorVectorStore, address: str) -> None:
    store.add_documents(documents()[:1])
    with pytest.raises(attractor.Conflict, match=r"belongs to 'all-minilm.*this is 'langchain:MiniLMEmbeddings'"):
        AttractorVectorStore.from_texts(["x"], MiniLMEmbeddings(), space=store.memory.space, address=address)
