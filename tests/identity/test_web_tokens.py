"""JSON Web Tokens of a local issuer: what is believed, what is not, and keys that change."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms
from tests.support.identities import put_text

from attractor_server.errors import SettingsError, Unauthenticated
from attractor_server.identity.grants import Role
from attractor_server.identity.identities import Identities
from attractor_server.identity.identity_file import read_identities
from attractor_server.identity.key_set import KeySet

ISSUER, AUDIENCE = "https://login.example.org", "attractor"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER = ed25519.Ed25519PrivateKey.generate()
FILE = f"""
[[jwt]]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
keys = "KEYS"
grants = ["users/{{sub}}/*:write", "shared/*:read"]
claim = "attractor"
groups_claim = "groups"
groups = {{staff = ["staff/*:write"]}}
"""


def publish(keys: dict[str, Any]) -> str:
    """Return the public keys as a set, each under a name."""
    algorithms = get_default_algorithms()
    published = []
    for kid, key in keys.items():
        name = next(name for name, one in KEYS.items() if type(one) is type(key))
        jwk: dict[str, Any] = algorithms[name].to_jwk(key.public_key(), as_dict=True)
        published.append({**jwk, "kid": kid, "use": "sig"})
    return json.dumps({"keys": [*published, {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}]})


def issue(algorithm: str = "EdDSA", key: object = None, kid: str | None = None, **claims: object) -> str:
    """Return a token with the usual claims and these; None leaves one out."""
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 60}
    signs: Any = key or KEYS[algorithm]
    kept = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(kept, signs, algorithm=algorithm, headers={"kid": kid or algorithm})


@pytest.fixture
async def identities(tmp_path: Path) -> Identities:
    await put_text(tmp_path / "jwks.json", publish(KEYS))
    await put_text(tmp_path / "identities.toml", FILE.replace("KEYS", "jwks.json"))
    return await anyio.to_thread.run_sync(Identities, tmp_path / "identities.toml")


@pytest.mark.parametrize("algorithm", list(KEYS))
async def test_a_token_of_the_issuer_is_believed(identities: Identities, algorithm: str) -> None:
    token = issue(algorithm, groups=["staff", "others"], attractor={"notes": "admin"})
    for _ in range(2):
        principal = await identities.authenticate(f"Bearer {token}")
        assert (principal.source, principal.name) == ("jwt", f"{ISSUER}#ada")
        roles = {
            name: principal.grants.role_in(name)
            for name in ("users/ada/x", "shared/x", "staff/x", "notes", "users/bob/x")
        }
        assert list(roles.values()) == [Role.WRITE, Role.READ, Role.WRITE, Role.ADMIN, Role.NONE]


async def test_what_the_issuer_did_not_say_is_not_believed(identities: Identities) -> None:
    now_s = time.time()
    public = KEYS["EdDSA"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header, claims, signature = issue().split(".")
    forged = base64.urlsafe_b64encode(
        json.dumps({"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "exp": now_s + 9}).encode()
    )
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now_s + 60}
    confused = ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (b'{"alg":"HS256","kid":"EdDSA"}', json.dumps(body).encode(), b"")
    )
    tokens = {
        "whose time is over": issue(exp=now_s - 31),
        "for another audience": issue(aud="others"),
        "an issuer that this server does not know": issue(iss="https://evil.example.org"),
        "without the claim sub": issue(sub=None),
        "without the claim exp": issue(exp=None),
        "cannot verify": issue(key=OTHER),
        "that this server cannot verify": f"{header}.{forged.rstrip(b'=').decode()}.{signature}",
        "this server cannot verify": jwt.encode(body, "", algorithm="none", headers={"kid": "EdDSA"}),
        "server cannot verify": confused,
        "does not publish": issue(kid="unknown"),
        "cannot read": f"{header}.{claims[:-3]}.{signature}",
        "key that its issuer": jwt.encode(body, "secret" * 8, algorithm="HS256", headers={"kid": "secret"}),
        "a token that this server": issue(nbf=now_s + 100),
        "grants this server cannot read": issue(attractor=["*:owner"]),
        "with a subject of 300": issue(sub="x" * 300),
    }
    for why, token in tokens.items():
        with pytest.raises(Unauthenticated, match=why) as caught:
            await identities.authenticate(f"Bearer {token}")
        assert token not in caught.value.message
    with pytest.raises(Unauthenticated):
        await identities.authenticate(
            f"Bearer {jwt.encode(body, public.hex(), algorithm='HS256', headers={'kid': 'EdDSA'})}"
        )
    assert (await identities.authenticate(f"Bearer {issue(exp=now_s - 20)}")).name.endswith("ada")  # clocks differ


@pytest.mark.parametrize("subject", ["a/b", "*", "auth0|7", ".." + "/x", ""])
async def test_a_subject_that_is_no_part_of_a_name_gets_no_names_of_its_own(
    identities: Identities, subject: str
) -> None:
    if not subject:
        with pytest.raises(Unauthenticated):
            await identities.authenticate(f"Bearer {issue(sub=subject)}")
        return
    principal = await identities.authenticate(f"Bearer {issue(sub=subject)}")
    assert principal.grants.texts == ["shared/*:read"]


class _Published(BaseHTTPRequestHandler):
    """The keys of an issuer, as they are now."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        server.fetched += 1
        self.send_response(200 if server.keys else 500)
        self.end_headers()
        self.wfile.write(server.keys.encode())

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name above it
        pass


class _Server(ThreadingHTTPServer):
    keys = ""
    fetched = 0


@pytest.fixture
def published() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Published) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_keys_at_an_address_are_fetched_again_for_a_new_name_but_not_for_each(
    published: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attractor_server.identity.key_set.COOLDOWN_S", 0.5)
    await put_text(tmp_path / "i.toml", FILE.replace("KEYS", f"http://127.0.0.1:{published.server_address[1]}/jwks"))
    identities = await anyio.to_thread.run_sync(Identities, tmp_path / "i.toml")
    with pytest.raises(Unauthenticated, match="does not publish"):  # the issuer does not answer yet
        await identities.authenticate(f"Bearer {issue(kid='one')}")
    published.keys = publish({"one": KEYS["EdDSA"]})
    await anyio.sleep(0.6)
    change = identities.change
    assert (await identities.authenticate(f"Bearer {issue(kid='one')}")).name.endswith("ada")
    assert change.is_set()
    fetched = published.fetched
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await identities.authenticate(f"Bearer {issue(kid=f'unknown-{number}')}")
    assert published.fetched - fetched <= 1
    published.keys = publish({"two": OTHER})
    await anyio.sleep(0.6)
    old, new = issue(kid="one"), issue(kid="two", key=OTHER)
    assert (await identities.authenticate(f"Bearer {old}")).name.endswith("ada")
    assert (await identities.authenticate(f"Bearer {new}")).name.endswith("ada")
    with pytest.raises(Unauthenticated):
        await identities.authenticate(f"Bearer {old}")
    published.keys = ""
    await anyio.sleep(0.6)
    with pytest.raises(Unauthenticated):
        await identities.authenticate(f"Bearer {issue(kid='three')}")
    assert (await identities.authenticate(f"Bearer {new}")).name.endswith("ada")


async def test_keys_in_a_file_are_read_again(tmp_path: Path) -> None:
    changes: list[int] = []
    await put_text(tmp_path / "jwks.json", publish({"one": OTHER}))
    keys = KeySet(str(tmp_path / "jwks.json"), lambda: changes.append(1))
    assert (await keys.find("one")) is (await keys.find(None))
    await put_text(tmp_path / "jwks.json", publish({"two": OTHER, "three": KEYS["ES256"]}))
    await keys.refresh(0)
    assert [await keys.find(kid) for kid in ("one", None)] == [None, None]
    await put_text(tmp_path / "jwks.json", "broken")
    await keys.refresh(0)
    assert await keys.find("two")
    assert len(changes) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"KEYS"', '"http://login.example.org/jwks"', "jwt 1.keys: saw .*; expected https:// or a path"),
        ("[[jwt]]", FILE + "[[jwt]]", "jwt 2.issuer: saw .* twice"),
        ("users/{sub}/*:write", "users/{sub}*:write", r"jwt 1.grants\[0\]: saw"),
        ('groups_claim = "groups"', "", "jwt 1.groups_claim is missing"),
        (f'audience = "{AUDIENCE}"', "audience = []", "jwt 1.audience: saw none"),
        (f'audience = "{AUDIENCE}"', "", "jwt 1: audience is missing"),
    ],
)
def test_an_issuer_that_cannot_be_meant_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "identities.toml"
    file.write_text(FILE.replace(old, new))
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=said):
        read_identities(file)
