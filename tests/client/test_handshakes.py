"""Clients that speak TLS: whom they believe, what they show, and how a refusal is told."""

import asyncio
import pickle
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import grpc
import pytest
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from tests.support.certificates import Authority, Pair, credentials_of, tls_of
from tests.support.fake_server import QUICK, FakeServer, serving

import attractor

PATTERN = [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]


@dataclass(frozen=True)
class Files:
    """Certificates of two authorities."""

    ca: Path
    other_ca: Path
    server: Pair
    expired: Pair
    client: Pair
    stranger: Pair
    """A client's, by the other authority"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "one")


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Files:
    other = Authority(tmp_path_factory.mktemp("certificates") / "other")
    return Files(
        authority.ca,
        other.ca,
        authority.issue("server"),
        authority.issue("expired", expired=True),
        authority.issue("client", name="client.test"),
        other.issue("stranger", name="client.test"),
    )


def port_of(fake: FakeServer) -> int:
    return int(fake.address.rpartition(":")[2])


REFUSALS: dict[
    str, tuple[Callable[[Files], grpc.ServerCredentials | None], Callable[[Files], attractor.TLS | None]]
] = {
    "CERTIFICATE_EXPIRED": (lambda f: credentials_of(f.expired), lambda f: tls_of(f.ca)),
    "CERTIFICATE_OF_OTHER_NAME": (
        lambda f: credentials_of(f.server),
        lambda f: attractor.TLS(ca=f.ca),  # the address has none
    ),
    "CERTIFICATE_OF_UNKNOWN_ISSUER": (lambda f: credentials_of(f.server), lambda f: tls_of(f.other_ca)),
    "CLIENT_CERTIFICATE": (lambda f: credentials_of(f.server, f.ca), lambda f: tls_of(f.ca)),
    "CLIENT_CERTIFICATE of another issuer": (
        lambda f: credentials_of(f.server, f.ca),
        lambda f: tls_of(f.ca, f.stranger),
    ),
    "TLS_EXPECTED": (lambda f: credentials_of(f.server), lambda f: None),
    "TLS_NOT_SPOKEN": (lambda f: None, lambda f: tls_of(f.ca)),
}
"""Files of server and client, by the reason that a client gives"""


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_handshake_that_fails_is_told_at_once_with_its_reason(reason: str, files: Files) -> None:
    of_server, of_client = REFUSALS[reason]
    credentials, tls = await to_thread.run_sync(of_server, files), of_client(files)
    async with serving(FakeServer(), credentials=credentials) as fake:
        with anyio.fail_after(20), pytest.raises(attractor.HandshakeFailed) as caught:
            async with attractor.connect(fake.address, tls=tls, connect_timeout_s=60):
                pass
    assert caught.value.reason == reason.partition(" ")[0]
    assert fake.address in str(caught.value)


async def test_a_balancer_with_no_server_behind_it_is_no_handshake_that_fails(files: Files) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await to_thread.run_sync(context.load_cert_chain, files.server.certificate, files.server.key)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as balancer:
        port = balancer.sockets[0].getsockname()[1]
        with pytest.raises(attractor.Unreachable):
            async with attractor.connect(f"127.0.0.1:{port}", tls=tls_of(files.ca), connect_timeout_s=1):
                pass


@pytest.mark.parametrize("mutual", [False, True])
async def test_a_client_that_believes_the_server_and_shows_what_it_asks_for_is_served(
    mutual: bool, files: Files
) -> None:
    credentials = await to_thread.run_sync(credentials_of, files.server, files.ca if mutual else None)
    async with (
        serving(FakeServer(), credentials=credentials) as fake,
        attractor.connect(fake.address, tls=tls_of(files.ca, files.client if mutual else None)) as client,
    ):
        memory = await client.create_memory("faces", model="tiny")
        assert (await memory.store(PATTERN)).version == 1


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("localhost", "localhost:{}"),
        ("localhost", "dns:///localhost:{}"),
        ("127.0.0.1", "127.0.0.1:{}"),
        ("127.0.0.1", "ipv4:127.0.0.1:{}"),
        ("::1", "[::1]:{}"),
    ],
)
async def test_without_a_name_the_one_in_the_address_is_expected(
    name: str, address: str, files: Files, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await to_thread.run_sync(partial(authority.issue, "named", name=name))
    credentials = await to_thread.run_sync(credentials_of, pair)
    async with serving(FakeServer(), credentials=credentials, host="[::]") as fake:
        given = address.format(port_of(fake))
        async with attractor.connect(given, tls=attractor.TLS(ca=files.ca)) as client:
            assert (await client.create_memory("faces", model="tiny")).name == "faces"
        with pytest.raises(attractor.HandshakeFailed) as caught:
            async with attractor.connect(given, tls=attractor.TLS(ca=files.ca, server_name="b.test")):
                pass
        assert caught.value.reason == "CERTIFICATE_OF_OTHER_NAME"
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))  # a system that believes this authority
        async with attractor.connect(given, tls=True) as client:
            assert (await client.create_memory("faces", model="tiny")).name == "faces"


async def test_an_open_client_fails_with_the_reason_while_it_does_not_believe_the_server_and_then_goes_on(
    files: Files,
) -> None:
    good, bad = await to_thread.run_sync(lambda: [credentials_of(pair) for pair in (files.server, files.expired)])
    async with AsyncExitStack() as clients:
        async with serving(FakeServer(), credentials=good) as fake:
            opened = attractor.connect(fake.address, tls=tls_of(files.ca), retry=QUICK, timeout_s=60)
            client = await clients.enter_async_context(opened)
            memory = await client.create_memory("faces", model="tiny")
            await memory.store(PATTERN)
        async with serving(FakeServer(), port_of(fake), credentials=bad):
            with anyio.fail_after(20):
                for call in (memory.info, lambda: memory.store(PATTERN)):
                    with pytest.raises(attractor.HandshakeFailed) as caught:
                        await call()
                    assert caught.value.reason == "CERTIFICATE_EXPIRED"
        async with serving(FakeServer(), port_of(fake), credentials=good):
            await client.create_memory("faces", model="tiny")
            assert (await memory.store(PATTERN)).version == 1


async def test_a_client_whose_certificate_was_renewed_shows_the_new_one(files: Files, tmp_path: Path) -> None:
    shown = Pair(tmp_path / "client.pem", tmp_path / "client.key")
    await to_thread.run_sync(shown.become, files.stranger)
    before, after = await to_thread.run_sync(
        lambda: [credentials_of(files.server, ca) for ca in (files.other_ca, files.ca)]
    )
    async with AsyncExitStack() as clients:
        async with serving(FakeServer(), credentials=before) as fake:
            opened = attractor.connect(fake.address, tls=tls_of(files.ca, shown), retry=QUICK, timeout_s=60)
            client = await clients.enter_async_context(opened)
            await client.create_memory("faces", model="tiny")
        await to_thread.run_sync(shown.become, files.client)
        async with serving(FakeServer(), port_of(fake), credentials=after):
            memory = await client.create_memory("faces", model="tiny")
            assert (await memory.store(PATTERN)).version == 1


def test_the_synchronous_client_speaks_tls_as_well(portal: BlockingPortal, files: Files) -> None:
    secure = serving(FakeServer(), credentials=credentials_of(files.server))
    with portal.wrap_async_context_manager(secure) as fake:
        with attractor.Client(fake.address, tls=tls_of(files.ca)) as client:
            assert client.create_memory("faces", model="tiny").store(PATTERN).version == 1
        with pytest.raises(attractor.HandshakeFailed), attractor.Client(fake.address, tls=True):
            pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda f, d: attractor.TLS(ca=d / "none.pem"), r"^tls\.ca: saw .*No such file"),
        (lambda f, d: attractor.TLS(ca=d / "empty.pem"), r"^tls\.ca: saw .*cannot be read"),
        (lambda f, d: attractor.TLS(certificate=f.client.certificate, key=d / "none.pem"), r"^tls\.key: saw .*No such"),
        (
            lambda f, d: attractor.TLS(certificate=f.client.certificate, key=f.server.key),
            r"^tls\.key: saw .*not the key",
        ),
        (lambda f, d: attractor.TLS(certificate=f.client.certificate), r"^tls\.key: saw None"),
        (lambda f, d: attractor.TLS(certificate=d / "empty.pem", key=f.client.key), r"^tls\.certificate: saw .*cannot"),
        (lambda f, d: "yes", r"^tls: saw str"),
    ],
)
async def test_files_that_are_of_no_use_are_told_with_the_argument(
    given: Callable[[Files, Path], attractor.TLS], message: str, files: Files, tmp_path: Path
) -> None:
    await to_thread.run_sync((tmp_path / "empty.pem").write_text, "nothing\n")
    with pytest.raises(attractor.InvalidRequest, match=message):
        async with attractor.connect("127.0.0.1:1", tls=given(files, tmp_path)):
            pass


def test_a_copy_of_a_client_has_its_tls_and_no_key_is_in_it(files: Files) -> None:
    client = attractor.connect("127.0.0.1:1", tls=tls_of(files.ca, files.client))
    copied = pickle.dumps(client)
    assert pickle.loads(copied)._settings.tls == tls_of(files.ca, files.client)
    assert files.client.key.read_bytes().split(b"\n")[1] not in copied
