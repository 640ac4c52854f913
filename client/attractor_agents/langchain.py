"""LangChain's vector store and retriever, over a memory of texts."""

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, Self
from uuid import uuid4

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from pydantic import ConfigDict

from attractor import Filter
from attractor_agents._coder import DIMS
from attractor_agents.encoders import from_langchain
from attractor_agents.sync import SyncAgentMemory
from attractor_agents.types import Neighbour, Note
from attractor_agents.vectors import fit


class AttractorVectorStore(VectorStore):
    """Documents in the memory `space` of a server of Attractor.

    ```python
    store = AttractorVectorStore(embeddings, space="docs", address="localhost:7171")
    ```

    Scores are cosines. `filter` of every search names conditions on metadata, as `attractor.Filter` says. It connects
    when it is first used; `close` it, or use it in a `with`. `options` are those of `attractor.connect`.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        space: str,
        address: str = "localhost:7171",
        name: str = "",
        **options: Any,  # noqa: ANN401 - those of attractor.connect
    ) -> None:
        """`name` of the embeddings, which belongs to the memory; their class and model if it is not given."""
        self._embedding = embedding
        self._memory = SyncAgentMemory(address, space=space, encoder=from_langchain(embedding, name=name), **options)
        self._opening = Lock()
        self._is_open = False

    def __enter__(self) -> Self:
        self.memory  # noqa: B018 - opens it
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def embeddings(self) -> Embeddings:
        """Embeddings of the documents."""
        return self._embedding

    @property
    def memory(self) -> SyncAgentMemory:
        """Memory of the documents, open."""
        with self._opening:
            if not self._is_open:
                self._memory.__enter__()
                self._is_open = True
        return self._memory

    def close(self) -> None:
        """Close the connection; the next use opens another one."""
        with self._opening:
            if self._is_open:
                self._memory.__exit__(None, None, None)
                self._is_open = False

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> list[str]:
        """Add texts, in the place of what has their ids, and return the ids."""
        given = list(texts)
        names = None if ids is None else [name or uuid4().hex for name in ids]
        return self.memory.remember_all(given, ids=names, metadata=metadatas)

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool:  # noqa: ANN401
        """Delete documents, by default all."""
        if ids is None:
            self.memory.delete()
        elif ids:
            self.memory.forget(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids that there are."""
        return [make_document(note) for note in self.memory.get(ids)] if ids else []

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:  # noqa: ANN401
        """Return the documents nearest to a query."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[tuple[Document, float]]:
        """Return the documents nearest to a query with their cosines."""
        near = self._find(self._embedding.embed_query(query), k, kwargs.get("filter"))
        return [(make_document(one.note), one.similarity) for one in near]

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[Document]:
        """Return the documents nearest to a vector of the embeddings."""
        return [make_document(one.note) for one in self._find(embedding, k, kwargs.get("filter"))]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[Document]:
        """Return documents near a query and unlike one another."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[Document]:
        """Return documents near a vector of the embeddings and unlike one another."""
        near = self._find(embedding, max(k, fetch_k), kwargs.get("filter"))
        (cue,) = fit(np.asarray([embedding], np.float32), DIMS)
        chosen = maximal_marginal_relevance(cue, [one.vector.tolist() for one in near], lambda_mult=lambda_mult, k=k)
        return [make_document(near[at].note) for at in chosen]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Return a store with texts in it; `space` and the other arguments are those of the class."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: max(0.0, cosine)

    def _find(self, vector: list[float], k: int, conditions: Filter | None) -> Sequence[Neighbour]:
        return self.memory.nearest(vector, k=k, filter=conditions) if k > 0 else ()


class AttractorRetriever(BaseRetriever):
    """Documents that a question means, by vectors and words; none where nothing is known about it.

    Their metadata have the `probability` that each is meant and its `similarity`.
    """

    store: AttractorVectorStore
    k: int = 4
    filter: dict[str, Any] | None = None
    """Conditions on metadata"""
    min_probability: float = 0.0
    """Documents that are less probable are left out"""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        recalled = self.store.memory.recall(
            query, k=k or self.k, filter=self.filter, min_probability=self.min_probability
        )
        return [make_document(hit, probability=hit.probability, similarity=hit.similarity) for hit in recalled.hits]


def make_document(note: Note, **more: float) -> Document:
    """Return a note as a document."""
    return Document(id=note.id, page_content=note.text, metadata={**note.metadata, **more})
