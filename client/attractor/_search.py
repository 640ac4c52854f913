"""Searches in a memory, or in all under a prefix, and what they find."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import numpy as np

from attractor._arguments import check_text
from attractor._arrays import PackedPatterns, pack_cues
from attractor._errors import InvalidRequest
from attractor._filters import Filter, encode_filter
from attractor._items import decode_time
from attractor._payloads import check_words, decode_payload
from attractor._results import decode_tensor
from attractor._session.frames import pack_masks
from attractor._types import FieldInfo, Floats, ModelInfo, Patterns, Payload
from attractor_proto.v1 import memory_data_pb2 as data_pb
from attractor_proto.v1 import memory_items_pb2 as pb

SearchBy: TypeAlias = Literal["posterior", "cue"]

HITS_LIMIT = 1000

_BY = {"posterior": pb.SEARCH_BY_POSTERIOR, "cue": pb.SEARCH_BY_CUE}


@dataclass(frozen=True, kw_only=True, eq=False)
class Hit:
    """An item that a search found."""

    memory: str
    """Name of its memory"""
    id: str
    """Empty for none"""
    payload: Payload
    """bytes, or a JSON value; None for none"""
    text: str
    """Words that it is found by; empty for none"""
    probability: float
    """That this item is meant, by all patterns of its id; NaN without a cue, or where the model has no posterior"""
    score: float
    """What it was ranked by. By the posterior: the logarithm of the odds that it is meant rather than nothing that is
    there; by the cue: the cosine"""
    distance: float | None
    """1 less the cosine with the cue, in the metric of the item's page: 0 to 2; None without a pattern, or a cue"""
    page: int
    """Page of the memory that it is in, from 0, the oldest"""
    created: datetime | None
    """Time of the store; None where neither id nor payload came with it"""
    updated: datetime | None
    """Time of the last store that replaced it, or else of the first"""
    expires: datetime | None
    """When it is erased; None for never"""
    values: Floats | Mapping[str, Floats] | None
    """The pattern: of a model of one field an array, else field name to array; None unless asked for"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Items that a search found."""

    hits: Sequence[Hit]
    """The best first, each id once"""
    known: float
    """Probability that anything here is meant; NaN where hits have none"""
    total: int
    """Items that were looked at, after the filter"""
    memories: int = 1
    """Memories that were searched"""


def encode_search(  # noqa: PLR0913 - each an option
    packed: PackedPatterns | None,
    *,
    name: str = "",
    k: object,
    words: str | None,
    where: Filter | None,
    values: bool,
    by: str,
) -> pb.SearchRequest:
    """Return the request of a search.

    Raises:
        InvalidRequest: naming the argument, the value seen and the value expected.
    """
    if not isinstance(k, int) or not 0 < k <= HITS_LIMIT:
        raise InvalidRequest.of("k", f"saw {k!r}; expected 1 to {HITS_LIMIT}")
    if by not in _BY:
        raise InvalidRequest.of("by", f"saw {by!r}; expected one of {', '.join(_BY)}")
    if packed is None and not words:
        raise InvalidRequest.of("cue", "saw neither a cue nor words; expected one of them, or both")
    return pb.SearchRequest(
        name=check_text("name", name),
        tensors=[] if packed is None else _encode_cue(packed),
        k=k,
        words=check_words("words", words or ""),
        filter=encode_filter(where, "filter"),
        values=values,
        by=_BY[by],
    )


def pack_alone(cue: Patterns) -> PackedPatterns:
    """Pack a cue for memories whose model is not known here: arrays as they are.

    Raises:
        InvalidRequest: there is a text in it, whose characters only a model has numbers for.
    """
    given = cue if isinstance(cue, Mapping) else {"": cue}
    for field, value in given.items():
        if isinstance(value, str) or np.asarray(value).dtype.kind in "US":
            where = f"cue[{field}]" if field else "cue"
            raise InvalidRequest.of(
                where, "saw a text; expected arrays: search the memories of a text field one by one"
            )
    fields = tuple(FieldInfo(name=name, kind="vector", shape=np.shape(value)) for name, value in given.items())
    model = ModelInfo(name="", digest="", fields=fields, capacity=0, page_bytes=0, steps=0, training_record={})
    return pack_cues(model, given, where="cue")


def decode_found(answer: pb.SearchResponse, *, values: bool) -> Found:
    """Return what was found.

    Raises:
        ServerFault: the answer has another form.
    """
    return Found(
        hits=[_decode_hit(hit, values=values) for hit in answer.hits],
        known=answer.known if answer.HasField("known") else math.nan,
        total=answer.total,
        memories=answer.memories,
    )


def _encode_cue(packed: PackedPatterns) -> Sequence[data_pb.Tensor]:
    if not packed.single:
        raise InvalidRequest.of("cue", f"saw a batch of {packed.rows}; expected a single cue, without that axis")
    return [
        data_pb.Tensor(
            field=column.field,
            dtype=column.dtype,
            shape=column.values.shape,
            data=column.values.tobytes(),
            known=pack_masks([column]),
        )
        for column in packed.columns
    ]


def _decode_hit(hit: pb.Hit, *, values: bool) -> Hit:
    fields = {tensor.field: decode_tensor(tensor, 1)[0] for tensor in hit.tensors}
    pattern: Floats | Mapping[str, Floats] | None = None
    if values and fields:
        pattern = next(iter(fields.values())) if len(fields) == 1 else fields
    return Hit(
        memory=hit.memory,
        id=hit.item.id,
        payload=decode_payload(hit.item),
        text=hit.item.text,
        probability=hit.probability if hit.HasField("probability") else math.nan,
        score=hit.score,
        distance=hit.distance if hit.HasField("distance") else None,
        page=hit.page,
        created=decode_time(hit.item, "created"),
        updated=decode_time(hit.item, "updated"),
        expires=decode_time(hit.item, "expires"),
        values=pattern,
    )
