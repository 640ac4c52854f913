"""A server as users start it, with an admin port and logs as JSON: what probes, log collectors and neighbours see."""

import base64
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from tests.support.admin_port import ask
from tests.support.certificates import Authority, tls_of
from tests.support.postgresql import PROGRAMS, PostgresServer
from tests.support.secret_marks import find_marks
from tests.support.server_process import drained, server_process

import attractor
from attractor_server.identity.grants import parse_grants
from attractor_server.identity.identity_file import format_token
from attractor_server.identity.tokens import draw_token, hash_token

PASSWORD = "marker-of-the-password"
ISSUER = """
[[jwt]]
issuer = "https://login.example.org"
audience = "attractor"
keys = "jwks.json"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_forged_token() -> str:
    """A JSON Web Token that nobody signed."""
    parts = (
        {"alg": "ES256", "kid": "one"},
        {"iss": "https://login.example.org", "aud": "attractor", "sub": "ada", "exp": 4_000_000_000, "jti": "marker"},
    )
    head, claims = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{claims}.{'A' * 86}"


def test_the_admin_port_and_the_log_go_from_the_stand_in_to_the_shard_and_nobody_reads_a_secret(
    models: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, authority = free_port(), Authority(tmp_path / "authority")
    pair, known, forged = authority.issue("server"), draw_token(), make_forged_token()
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    grants = parse_grants(["a:write"], where="grants")
    identities = tmp_path / "identities.toml"
    identities.touch(0o600)
    identities.write_text(format_token("ada", hash_token(known), grants, None) + ISSUER)
    marks = {"the token": known, "another token": f"att_{known[4:][::-1]}", "the JWT": forged}
    marks |= {"the password": PASSWORD, "the key": pair.key.read_text().splitlines()[1]}
    arguments = ["--models", models, "--port", "0", "--data-dir", tmp_path / "data", "--identities", identities]
    arguments += ["--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-ca", authority.ca]
    if PROGRAMS is not None:
        store: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("ATTRACTOR_BACKEND_STORE_URI", store.store().replace("@", f":{PASSWORD}@", 1))
    watched = ("--admin-port", str(admin), "--log-format", "json", "--log-level", "info")
    told = list[str]()

    def try_tokens(address: str) -> None:
        """Use the token, and others that are refused."""
        with attractor.Client(address, tls=tls_of(authority.ca), token=known) as client:
            client.create_memory("a", model="tiny").store(np.full((4, 4), 0.5, np.float32))
            with pytest.raises(attractor.NotAllowed) as denied:
                client.memory("b").info()
            told.append(str(denied.value))
        for wrong in (marks["another token"], forged):
            with (
                pytest.raises(attractor.Unauthenticated) as refused,
                attractor.Client(address, tls=tls_of(authority.ca), token=wrong) as client,
            ):
                client.memory("a").info()
            told.append(str(refused.value))

    with server_process(*map(str, arguments), *watched, early=True) as server:
        assert ask(f"127.0.0.1:{admin}", "/readyz") == (200, "serving\n")
        try_tokens(server.address)
        server.relieve()
        assert ask(f"127.0.0.1:{admin}", "/readyz") == (200, "serving\n")
        try_tokens(server.address)
        for page in ("/metrics", "/config"):
            told.append(ask(f"127.0.0.1:{admin}", page)[1])
        assert "attractor_ownership_groups 64.0" in told[-2]
        assert "identities.toml" in told[-1]
        assert list(find_marks(marks, server)) == []
        assert server.stop() == 0
        logged = drained(server.errors)
        lines = [json.loads(line) for line in logged if line.startswith("{")]
    assert not [(name, text) for name, mark in marks.items() for text in (*told, *logged) if mark in text]
    assert any("stand-in serves" in line["message"] and "shard" not in line for line in lines)
    claims = [line for line in lines if line.get("shard") == 0 and line["message"].startswith("claimed 64")]
    assert [(line["level"], line["logger"], line["epoch"]) for line in claims] == [
        ("INFO", "attractor_server.shard.ownership", 1)
    ]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
