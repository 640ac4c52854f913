"""Contexts of traces: 25 bytes a request in frames of a session, and a header of unary calls (W3C Trace Context)."""

import re
from typing import Final

TRACE_BYTES: Final = 25
"""Id of the trace (16), id of the parent span (8), flags (1); all 0 for none."""
TRACE_KEY: Final = "traceparent"
"""Request metadata of unary calls."""

_HEADER = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def pack_trace(trace_id: int, span_id: int, flags: int) -> bytes:
    """Return the context as frames have it."""
    return trace_id.to_bytes(16, "big") + span_id.to_bytes(8, "big") + bytes([flags])


def unpack_trace(packed: bytes) -> tuple[int, int, int]:
    """Return the ids of trace and span, and the flags."""
    return int.from_bytes(packed[:16], "big"), int.from_bytes(packed[16:24], "big"), packed[24]


def format_trace(packed: bytes) -> str:
    """Return the header of a context."""
    return f"00-{packed[:16].hex()}-{packed[16:24].hex()}-{packed[24:].hex()}"


def parse_trace(header: str) -> bytes:
    """Return the context in a header; nothing where it has none."""
    found = _HEADER.fullmatch(header)
    return b"" if found is None else bytes.fromhex("".join(found.groups()))
