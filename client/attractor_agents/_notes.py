"""Notes as items of a memory: payloads, ids, conditions, and what belongs to the memory as a whole."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import attractor
from attractor import Filter, InvalidRequest, KeptItem
from attractor_agents.types import Hit, Note

RESERVED = "attractor:"
ENCODER_ID = f"{RESERVED}encoder"
"""Id of the item without a pattern that says which encoder a memory belongs to"""
TEXT_LIMIT_BYTES = 60 * 1024
"""Of a text and its metadata together: what a payload takes, less what stands around them"""
PARTS: Filter = {"part": {"$gte": 0}}
"""Conditions that hold for every part of every note, and for nothing else"""
NOTES: Filter = {"part": 0}
"""Conditions that hold for one part of every note"""


def check_text(name: str, text: object) -> str:
    """Return a text that has a word.

    Raises:
        InvalidRequest: it has none, or is no text.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidRequest.of(name, f"saw {text!r}; expected a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest.of(name, f"saw a text that is no Unicode ({error.reason}); expected one") from None
    return text


def check_id(given: object) -> str:
    """Return an id that a note may have.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(given, str) or not given or given.startswith(RESERVED):
        raise InvalidRequest.of("id", f"saw {given!r}; expected a text that does not begin with {RESERVED!r}")
    return given


def encode_note(text: str, metadata: object) -> dict[str, Any]:
    """Return the payload of a note.

    Raises:
        InvalidRequest: the text has no word, the metadata are no mapping of names to what JSON says, or it is too long.
    """
    check_text("text", text)
    given = {} if metadata is None else metadata
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidRequest.of("metadata", f"saw {given!r}; expected a mapping of names to values")
    try:
        length = len(text.encode()) + len(json.dumps(dict(given), allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest.of("metadata", f"saw what JSON cannot say ({error}); expected what it can") from error
    if length > TEXT_LIMIT_BYTES:
        expected = f"expected at most {TEXT_LIMIT_BYTES}: remember it in several"
        raise InvalidRequest.of("text", f"saw {length} bytes with its metadata; {expected}")
    return {"text": text, "metadata": dict(given), "at": time.time(), "part": 0}


def decode_note(item: KeptItem | attractor.Hit) -> Note | None:
    """Return the note that an item is; None for what something else stored."""
    payload = item.payload
    if not isinstance(payload, dict) or not isinstance(payload.get("text"), str) or item.id.startswith(RESERVED):
        return None
    return Note(
        id=item.id,
        text=payload["text"],
        metadata=payload.get("metadata", {}),
        created=item.created,
        updated=item.updated,
        expires=item.expires,
    )


def encode_conditions(of: Filter, conditions: object, since: object = None) -> Filter:
    """Return conditions on payloads: `of`, and those on metadata and the time of the last change.

    Raises:
        InvalidRequest: they are no mapping, or the time has no zone.
    """
    if conditions is not None and not isinstance(conditions, Mapping):
        raise InvalidRequest.of("filter", f"saw {type(conditions).__name__}; expected a mapping of paths to values")
    found = {**of, **{f"metadata.{path}": wanted for path, wanted in (conditions or {}).items()}}
    if since is not None:
        if not isinstance(since, datetime) or since.tzinfo is None:
            raise InvalidRequest.of("since", f"saw {since!r}; expected a datetime with a time zone")
        found["at"] = {"$gte": since.timestamp()}
    return found


def take_chars(hits: Sequence[Hit], limit: int) -> list[Hit]:
    """Return the first hits that have at most so many characters together, and the first one in any case."""
    ends = accumulate(len(hit.text) for hit in hits)
    return [hit for at, (hit, end) in enumerate(zip(hits, ends, strict=True)) if not at or end <= limit]


def seconds_until(expires: datetime | None) -> float | None:
    """Return the seconds that a note has left, at least one; None where it stays."""
    return None if expires is None else max(1.0, (expires - datetime.now(UTC)).total_seconds())
