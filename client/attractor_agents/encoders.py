"""Encoders, which make vectors of texts: the protocol, and those made of what an application has already."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from anyio import from_thread
from numpy.typing import ArrayLike, NDArray

from attractor import InvalidRequest

Floats: TypeAlias = NDArray[np.float32]
Kind = Literal["item", "query"]
Function: TypeAlias = Callable[[list[str]], Any]

WORDS_LIMIT = 180
"""Words of one vector, where the encoder does not say what it can see"""
KNOWN_FROM = 0.5


class Encoder(Protocol):
    """Maker of vectors of texts. All vectors of one encoder have the same length."""

    @property
    def name(self) -> str:
        """Name that belongs to each memory written by it; another model has another one."""

    @property
    def known_from(self) -> float | None:
        """Cosine from which a text is probably what a question means; None for vectors that the model was trained on,
        whose probabilities it tells better.
        """

    def encode(self, texts: Sequence[str], *, kind: Kind = "item") -> Floats:
        """Return a vector for each text, (texts, dims); called in worker threads, by several at once."""

    def split(self, text: str) -> list[str]:
        """Return the parts of a text that are to have vectors of their own, at least one."""


@dataclass(frozen=True)
class _Adapter:
    name: str
    known_from: float | None
    make: Callable[[Sequence[str], Kind], ArrayLike]
    words: int

    def encode(self, texts: Sequence[str], *, kind: Kind = "item") -> Floats:
        return np.asarray(self.make(texts, kind), np.float32)

    def split(self, text: str) -> list[str]:
        return split_words(text, self.words)


def from_function(
    function: Function,
    *,
    name: str,
    words: int = WORDS_LIMIT,
    known_from: float | None = KNOWN_FROM,
    for_queries: Function | None = None,
) -> Encoder:
    """Return an encoder of a function, plain or async, from texts to a vector each.

    Texts of more than `words` words get several vectors. From a cosine of `known_from` on a text is taken to be meant;
    it is another one for each model. `for_queries` is the function for questions, if it is another.
    """
    if not name:
        raise InvalidRequest.of("name", f"saw {name!r}; expected the name of the model behind the function")

    def make(texts: Sequence[str], kind: Kind) -> ArrayLike:
        chosen = for_queries if kind == "query" and for_queries is not None else function
        vectors: ArrayLike = _wait(chosen(list(texts)))
        return vectors

    return _Adapter(name, known_from, make, words)


def from_langchain(
    embeddings: Any,  # noqa: ANN401 - no import
    *,
    name: str = "",
    words: int = WORDS_LIMIT,
    known_from: float | None = KNOWN_FROM,
) -> Encoder:
    """Return an encoder of LangChain's `Embeddings`, named by its class and model unless `name` is given."""
    model = next((str(vars(embeddings)[key]) for key in ("model_name", "model") if key in vars(embeddings)), "")
    parts = ("langchain", type(embeddings).__name__, model)
    return from_function(
        embeddings.embed_documents,
        name=name or ":".join(filter(None, parts)),
        words=words,
        known_from=known_from,
        for_queries=lambda texts: [embeddings.embed_query(text) for text in texts],
    )


def from_openai(
    client: Any,  # noqa: ANN401 - no import
    model: str,
    *,
    words: int = WORDS_LIMIT,
    known_from: float | None = KNOWN_FROM,
) -> Encoder:
    """Return an encoder of a model behind OpenAI's interface; `client` is an `OpenAI` or an `AsyncOpenAI`."""

    def ask(texts: list[str]) -> ArrayLike:
        answer = _wait(client.embeddings.create(model=model, input=texts))
        return [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]

    return from_function(ask, name=f"openai:{model}", words=words, known_from=known_from)


def split_words(text: str, limit: int) -> list[str]:
    """Return parts of at most so many words, cut where a sentence ends if one does in the second half of a part."""
    words = list(re.finditer(r"\S+", text))
    return [text[words[start].start() : words[end - 1].end()] for start, end in _cut(words, limit)] or [text]


def _cut(words: "Sequence[re.Match[str]]", limit: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(words):
        end = min(start + limit, len(words))
        if end < len(words):
            ends = (at + 1 for at in range(end - 1, start + limit // 2 - 1, -1) if words[at][0][-1] in ".!?")
            end = next(ends, end)
        yield start, end
        start = end


def _wait(result: Any) -> Any:  # noqa: ANN401 - whatever it is a result of
    """Return the result, waited for on the event loop that the worker thread belongs to if need be."""
    if not isawaitable(result):
        return result

    async def wait() -> Any:  # noqa: ANN401
        return await result

    return from_thread.run(wait)
