"""Checks of requests, before anything is looked up or computed."""

import numpy as np

from attractor_proto.names import CLIENT_ID_LIMIT, MATCHES_LIMIT, STEPS_LIMIT
from attractor_server.errors import InvalidRequest, quote
from attractor_server.fields import MISSING_INDEX, Field, Layout
from attractor_server.memories.outcomes import Floats
from attractor_server.rpc.codec import Patterns

SEQUENCE_LIMIT = (1 << 63) - 1


def check_no_nul(text: str, where: str) -> None:
    """Refuse U+0000, which no name has and a database cannot be asked for.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if "\0" in text:
        raise InvalidRequest.of(where, f"saw {quote(text)}; expected none of its characters to be U+0000")


def check_steps(steps: int, where: str) -> None:
    """Refuse more reading steps than a query may take.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if steps > STEPS_LIMIT:
        raise InvalidRequest.of(where, f"saw {steps}; expected 0 (the model's own number) to {STEPS_LIMIT}")


def check_matches(matches: int, *, match: bool, where: str) -> int:
    """Return how many matches a query asks for, for each of its cues.

    Raises:
        InvalidRequest: more than may be asked for, or some by a query without `match`.
    """
    if matches > MATCHES_LIMIT or (matches and not match):
        expected = f"0 (one) to {MATCHES_LIMIT}" if match else "0, without `match`"
        raise InvalidRequest.of(where, f"saw {matches}; expected {expected}")
    return (matches or 1) if match else 0


def check_client_id(client_id: str, where: str) -> None:
    """Refuse an empty client id, one that is too long, and U+0000 in it.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not 0 < len(client_id) <= CLIENT_ID_LIMIT or "\0" in client_id:
        seen = f"saw {quote(client_id)}, {len(client_id)} characters"
        raise InvalidRequest.of(where, f"{seen}; expected 1 to {CLIENT_ID_LIMIT}, none of them U+0000")


def check_sequence(sequence: int, where: str) -> None:
    """Refuse a sequence number that no store can note.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    if not 0 < sequence <= SEQUENCE_LIMIT:
        raise InvalidRequest.of(where, f"saw {sequence}; expected 1 to {SEQUENCE_LIMIT}")


def check_values(layout: Layout, patterns: Patterns, *, where: str, partial: bool = False) -> None:
    """Refuse infinity, values outside a field's range, and NaN, which only in `partial` patterns means missing.

    Raises:
        InvalidRequest: naming the field, the value seen and the value expected.
    """
    for field, span in layout.spans:
        part = patterns.values[:, span]
        if problem := _find_problem(field, part, partial=partial):
            raise InvalidRequest.of(f"{where}[{field.name}]", problem)
        if patterns.known is not None and (unknown := patterns.known[:, span] & np.isnan(part)).any():
            raise InvalidRequest.of(
                f"{where}[{field.name}].known",
                f"saw a missing value marked as known in {_describe_place(unknown)}; "
                "expected known entries to have values",
            )
    if partial and (empty := _find_empty(patterns.values)).any():
        raise InvalidRequest.of(where, f"saw no value in pattern {empty.argmax()}; expected at least one")


def _find_empty(values: Floats) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """Mark the patterns without any value; all entries are looked at only where the first one is missing."""
    empty = np.isnan(values[:, 0])
    if empty.any():
        empty[empty] = np.isnan(values[empty]).all(1)
    return empty


def _find_problem(field: Field, part: Floats, *, partial: bool) -> str:
    """Describe the fault in the values (patterns, entries) of a field; empty where there is none."""
    low, high = float(part.min(initial=np.inf)), float(part.max(initial=-np.inf))  # NaN wins in both
    if field.has_codes:
        return _find_text_problem(field, part, partial=partial)
    if partial and np.isnan(low):
        given = part[~np.isnan(part)]
        low, high = float(given.min(initial=np.inf)), float(given.max(initial=-np.inf))
        if not given.size:
            return ""
    if not (np.isfinite(low) and np.isfinite(high)):
        wrong = np.isinf(part) if partial else ~np.isfinite(part)
        value = part[wrong].flat[0]
        return f"saw {value} in {_describe_place(wrong)}; expected finite numbers"
    if low < field.minimum or high > field.maximum:
        hint = f" ({field.traits.hint})" if field.traits.hint else ""
        return f"saw values from {low:g} to {high:g}; expected {field.minimum:g} to {field.maximum:g}{hint}"
    return ""


def _find_text_problem(field: Field, part: Floats, *, partial: bool) -> str:
    last = len(field.alphabet) - 1
    beyond, missing = part > last, np.isnan(part)
    if beyond.any():
        return (
            f"saw {part[beyond].flat[0]:g} in {_describe_place(beyond)}; expected 0 to {last}, places in the alphabet"
        )
    if missing.any() and not partial:
        seen = f"saw {MISSING_INDEX}, a missing character, in {_describe_place(missing)}"
        return f"{seen}; expected 0 to {last}, places in the alphabet"
    return ""


def _describe_place(marked: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> str:
    row, entry = np.argwhere(marked)[0]
    return f"pattern {row}, entry {entry}"
