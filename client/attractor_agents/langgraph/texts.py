"""Texts of values that are searched by meaning, and their vectors."""

from collections.abc import Iterable, Mapping

import numpy as np
from langgraph.store.base import IndexConfig, PutOp, ensure_embeddings, get_text_at_path, tokenize_path

from attractor_agents.encoders import Floats
from attractor_agents.vectors import fit

DIMS = 384
WHOLE = "$"
"""Path of the whole value"""


class Index:
    """Embeddings, and the paths in values whose texts they are made of."""

    def __init__(self, config: IndexConfig) -> None:
        """Take LangGraph's description."""
        self._embeddings = ensure_embeddings(config.get("embed"))
        self._paths = [_parse(path) for path in config.get("fields") or [WHOLE]]

    def texts_of(self, op: PutOp) -> list[str]:
        """Return the texts of a value to be searched by; none where it is not to be."""
        if op.value is None or op.index is False:
            return []
        paths = self._paths if op.index is None else [_parse(path) for path in op.index]
        return list(dict.fromkeys(text for path in paths for text in get_text_at_path(dict(op.value), path)))

    async def embed(self, texts: Iterable[str]) -> Mapping[str, Floats]:
        """Return a vector for each text."""
        given = list(dict.fromkeys(texts))
        return dict(zip(given, _fit(await self._embeddings.aembed_documents(given)), strict=True)) if given else {}

    async def embed_queries(self, queries: Iterable[str]) -> Mapping[str, Floats]:
        """Return a vector for each query."""
        given = list(dict.fromkeys(queries))
        return {query: _fit([await self._embeddings.aembed_query(query)])[0] for query in given}


def _parse(path: str) -> str | list[str]:
    return path if path == WHOLE else tokenize_path(path)


def _fit(vectors: list[list[float]]) -> Floats:
    return fit(np.asarray(vectors, np.float32), DIMS)
