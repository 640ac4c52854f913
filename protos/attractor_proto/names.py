"""Rules of the contract that both sides compute: slots, limits and words of the wire."""

import hashlib
import re

PROTOCOL_VERSION = 1
SLOTS = 1024
"""Of a cluster that was not made with another number, always a power of two."""
NAME_LIMIT = 256
CLIENT_ID_LIMIT = 64
MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024
STEPS_LIMIT = 256
MATCHES_LIMIT = 1024
"""For each cue"""
TAG_LIMIT = 64
ITEM_ID_LIMIT = 256
PAYLOAD_LIMIT_BYTES = 64 * 1024

TEXT_LIMIT_BYTES = 64 * 1024
ERROR_DOMAIN = "attractor"
ROUTE_KEY = "attractor-route"
"""Trailing metadata of a forwarded unary call: the owner's address."""
FORWARDED_KEY = "attractor-forwarded"
"""Request metadata: do not forward, and of a list, tell of this shard alone. It proves nothing of its sender."""

_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_TAG = re.compile(r"[A-Za-z0-9._-]+")


def slot_of(name: str, slots: int = SLOTS) -> int:
    """The slot of a memory, the same in every client and server (see memories.proto, Memory.name)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % slots


def is_valid_name(name: str) -> bool:
    """Whether a memory may be called so."""
    return 0 < len(name) <= NAME_LIMIT and _NAME.fullmatch(name) is not None


def is_valid_tag(tag: str) -> bool:
    """Whether a snapshot may be called so."""
    return 0 < len(tag) <= TAG_LIMIT and _TAG.fullmatch(tag) is not None
