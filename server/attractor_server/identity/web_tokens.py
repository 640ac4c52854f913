"""JSON Web Tokens, verified by PyJWT against the keys of their issuers."""

from collections.abc import Mapping
from typing import Any, Final

from attractor_server.errors import SettingsError, Unauthenticated
from attractor_server.identity.issuers import LEEWAY_S, Issuer
from attractor_server.identity.key_set import KeySet
from attractor_server.identity.principal import Principal

_REQUIRED: Final = ("exp", "iss", "sub", "aud")

_SUBJECT_LIMIT: Final = 256


def is_web_token(token: str) -> bool:
    """Return whether a token has the form of a JSON Web Token."""
    return token.count(".") == 2


def read_origin(token: str) -> tuple[str, str | None]:
    """Return the issuer that a token names and the name of its key; nothing of this is proven.

    Raises:
        Unauthenticated: it is no JSON Web Token.
    """
    import jwt

    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise _refuse("of a form that this server cannot read") from None
    return str(claims.get("iss")), header.get("kid")


async def verify(token: str, issuer: Issuer, keys: KeySet, kid: str | None) -> Principal:
    """Return whom a token names.

    Raises:
        Unauthenticated: it is not of the issuer, not for this server, over, or without what it must have.
    """
    if (key := await keys.find(kid)) is None:
        raise _refuse("signed by a key that its issuer does not publish")
    claims = _decode(token, issuer, key)
    subject = claims["sub"]
    if not 0 < len(subject) <= _SUBJECT_LIMIT:
        raise _refuse(f"with a subject of {len(subject)} characters, expected 1 to {_SUBJECT_LIMIT}")
    try:
        grants = issuer.list_grants(claims)
    except SettingsError:
        raise _refuse("whose grants this server cannot read") from None
    return Principal("jwt", f"{issuer.name}#{subject}", grants, float(claims["exp"]) + LEEWAY_S)


def _decode(token: str, issuer: Issuer, key: Any) -> Mapping[str, Any]:  # noqa: ANN401 - PyJWT is loaded when needed
    import jwt

    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=issuer.audiences,
            issuer=issuer.name,
            leeway=LEEWAY_S,
            options={"require": list(_REQUIRED)},
        )
    except jwt.ExpiredSignatureError:
        raise _refuse("whose time is over") from None
    except jwt.InvalidAudienceError:
        raise _refuse("for another audience") from None
    except jwt.MissingRequiredClaimError as error:
        raise _refuse(f"without the claim {error.claim}") from None
    except jwt.PyJWTError:
        raise _refuse("that this server cannot verify") from None
    return claims


def _refuse(why: str) -> Unauthenticated:
    return Unauthenticated(f"authorization: saw a token {why}; expected one that this server takes")
