"""Encoders: the one that ships says what its model says, and those of applications are asked as they want to be."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from anyio import to_thread

import attractor
import attractor_agents
from attractor_agents import EncoderMissing, MiniLM, Static, from_function, from_langchain, from_openai
from attractor_agents._files import find_in_package, read_checked
from attractor_agents.encoders import split_words
from attractor_agents.vectors import fit
from attractor_server.training.datasets.sentences import sentences, texts


def test_the_encoder_that_ships_makes_the_vectors_of_its_model_to_within_int8() -> None:
    """Those of the data, which sentence-transformers made in float32."""
    vectors = MiniLM().encode(texts("test")[:24])
    assert vectors.shape == (24, 384)
    assert vectors.dtype == np.float32
    assert (vectors * sentences("test").values[:24]).sum(1).min() > 0.995


def test_texts_of_one_call_have_the_vectors_that_each_has_alone() -> None:
    encoder, given = MiniLM(), ["Short.", "A sentence that is a little longer than that.", "ελληνικά", "[UNK] 猫"]
    together = encoder.encode(given)
    alone = np.concatenate([encoder.encode([text]) for text in given])
    assert (together * alone).sum(1).min() > 0.999


@pytest.mark.parametrize("encoder", [MiniLM(), Static()], ids=["minilm", "static"])
def test_parts_of_a_long_text_are_all_of_it(encoder: attractor_agents.Encoder) -> None:
    assert encoder.split("One sentence.") == ["One sentence."]
    text = " ".join(f"Number {number} is a sentence." for number in range(200))
    parts = encoder.split(text)
    assert len(parts) > 3
    assert all(any(f"Number {number} is a sentence." in part for part in parts) for number in range(200))
    assert encoder.encode(parts).shape[0] == len(parts)


def test_parts_end_with_sentences_where_there_are_any() -> None:
    assert split_words("one two. three four five six", 3) == ["one two.", "three four five", "six"]
    assert split_words("a b c. d e", 4) == ["a b c.", "d e"]
    assert split_words("  ", 4) == ["  "]


async def test_functions_plain_and_async_are_encoders() -> None:
    async def ask(given: list[str]) -> list[list[float]]:
        return [[len(text), 1.0] for text in given]

    plain = from_function(lambda given: [[len(text), 1.0] for text in given], name="length")
    other = from_function(ask, name="length", for_queries=lambda given: np.zeros((len(given), 2)))
    for encoder in (plain, other):
        assert encoder.name == "length"
        assert (await to_thread.run_sync(encoder.encode, ["ab"])).tolist() == [[2.0, 1.0]]
    assert (await to_thread.run_sync(lambda: other.encode(["ab"], kind="query"))).tolist() == [[0.0, 0.0]]
    with pytest.raises(attractor.InvalidRequest, match="name: saw ''"):
        from_function(ask, name="")


def test_embeddings_of_langchain_are_an_encoder_named_by_its_model() -> None:
    class Embeddings:
        def __init__(self) -> None:
            self.model = "tiny"

        def embed_documents(self, given: list[str]) -> list[list[float]]:
            return [[1.0, 0.0] for _ in given]

        def embed_query(self, _: str) -> list[float]:
            return [0.0, 1.0]

    encoder = from_langchain(Embeddings())
    assert encoder.name == "langchain:Embeddings:tiny"
    assert from_langchain(Embeddings(), name="mine").name == "mine"
    assert encoder.encode(["a", "b"]).tolist() == [[1.0, 0.0]] * 2
    assert encoder.encode(["a"], kind="query").tolist() == [[0.0, 1.0]]


async def test_clients_of_openai_are_encoders_in_the_order_of_what_was_asked() -> None:
    def answer(model: str, given: list[str]) -> SimpleNamespace:
        assert model == "small"
        rows = [SimpleNamespace(index=at, embedding=[float(len(text))]) for at, text in enumerate(given)]
        return SimpleNamespace(data=rows[::-1])

    class Sync:
        def create(self, *, model: str, input: list[str]) -> SimpleNamespace:  # noqa: A002 - OpenAI's name
            return answer(model, input)

    class Async:
        async def create(self, *, model: str, input: list[str]) -> SimpleNamespace:  # noqa: A002
            return answer(model, input)

    for api in (Sync(), Async()):
        encoder = from_openai(SimpleNamespace(embeddings=api), "small")
        assert encoder.name == "openai:small"
        assert (await to_thread.run_sync(encoder.encode, ["abc", "d"])).tolist() == [[3.0], [1.0]]


def test_shorter_vectors_keep_their_cosines_and_longer_ones_about() -> None:
    random = np.random.default_rng(0)
    for given, error in ((6, 1e-6), (384, 1e-6), (1536, 0.12)):
        vectors = random.standard_normal((20, given)).astype(np.float32) + 1
        fitted = fit(vectors, 384)
        assert fitted.shape == (20, 384)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.abs(fitted @ fitted.T - units @ units.T).max() < error
    assert not fit(np.zeros((1, 6), np.float32), 384).any()
    for bad in (np.zeros(6, np.float32), np.full((1, 6), np.nan, np.float32), np.zeros((1, 0), np.float32)):
        with pytest.raises(attractor.InvalidRequest, match="encoder: made vectors of"):
            fit(bad, 384)


def test_an_encoder_whose_files_are_missing_or_damaged_says_so(tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(EncoderMissing, match=r"model\.onnx: saw content with SHA-256 .*; expected 00"):
        read_checked(damaged, "00")
    with pytest.raises(EncoderMissing, match=r"nothing: No such file"):
        read_checked(tmp_path / "nothing", "00")
    with pytest.raises(
        EncoderMissing, match=r"no-such-package is not installed: pip install 'attractor-agents\[text\]'"
    ):
        find_in_package("no-such-package", "file", "text")
