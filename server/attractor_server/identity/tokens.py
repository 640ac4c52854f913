"""Static tokens: drawn once, shown once, and known to the server by their SHA-256 alone."""

import hashlib
import secrets
from typing import Final

PREFIX: Final = "att_"
"""By which tools that look for lost secrets know a token"""

TOKEN_BYTES: Final = 32

LENGTH_LIMIT: Final = 8192
"""Characters of a token that is looked at: more than gRPC takes in the metadata of a call"""


def draw_token() -> str:
    """Return a new token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> bytes:
    """Return the digest by which a token is known; a slow hash would add nothing to so many random bits."""
    return hashlib.sha256(token.encode(errors="replace")).digest()
