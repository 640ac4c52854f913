"""The quick encoder: means of token vectors, without a network."""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from attractor_agents._files import explain_missing, find_in_package, read_checked
from attractor_agents.encoders import WORDS_LIMIT, Floats, Kind, split_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PACKAGE = "wordllama"
_WEIGHTS = "wordllama/weights/l2_supercat_256.safetensors"
_WEIGHTS_SHA256 = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
_TOKENS = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"
_TOKENS_SHA256 = "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"


class Static:
    """Encoder of WordLlama's token vectors, (256): a text takes 0.1 ms. Word order does not count.

    Files are read and checked when the first text is encoded.

    Raises, then:
        EncoderMissing: the extra `static` is not installed.
    """

    name = "wordllama-l2-supercat-256"
    known_from: float | None = 0.35

    def __init__(self) -> None:
        """Read nothing yet."""
        self._loading = Lock()

    def __repr__(self) -> str:
        return "<attractor_agents.Static>"

    def encode(self, texts: Sequence[str], *, kind: Kind = "item") -> Floats:
        """Return a vector for each text, (texts, 256)."""
        with self._loading:
            tokenizer, weights = self._loaded
        rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return np.stack([weights[row.ids].mean(0) if row.ids else weights[0] for row in rows])

    def split(self, text: str) -> list[str]:
        """Return parts of at most 180 words."""
        return split_words(text, WORDS_LIMIT)

    @cached_property
    def _loaded(self) -> "tuple[Tokenizer, Floats]":
        try:
            from safetensors.numpy import load
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise explain_missing(error.name or _PACKAGE, "static") from None
        tensors = load(read_checked(find_in_package(_PACKAGE, _WEIGHTS, "static"), _WEIGHTS_SHA256))
        tokens = read_checked(find_in_package(_PACKAGE, _TOKENS, "static"), _TOKENS_SHA256)
        return Tokenizer.from_str(tokens.decode()), tensors["embedding.weight"].astype(np.float32)
