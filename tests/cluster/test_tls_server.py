"""A server of two shards that speaks TLS, from the stand-in to shards in Ray, as its command starts it."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.certificates import NAME, Authority, tls_of
from tests.support.cluster_calls import scaled
from tests.support.server_process import server_process

import attractor
from attractor_proto.names import slot_of

ONE = np.full((4, 4), 0.5, np.float32)
NAMES = [next(f"m{n}" for n in range(99) if slot_of(f"m{n}") % 2 == shard) for shard in (0, 1)]
"""Memories of each of two shards"""


def test_a_server_of_two_shards_speaks_tls_from_its_first_moment_on(models: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair, shown = authority.issue("server"), authority.issue("client", name="client.test")
    flags = ("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", authority.ca)
    places = ("--models", models, "--data-dir", tmp_path / "data", "--shards", "2", "--port", "0")
    trusted = tls_of(authority.ca, shown)
    with server_process(*map(str, (*places, *flags, "--tls-ca", authority.ca)), early=True) as server:
        with pytest.raises(attractor.HandshakeFailed), attractor.Client(server.address):
            pass
        with attractor.Client(server.address, tls=trusted) as client:  # the stand-in
            for name in NAMES:
                client.create_memory(name, model="tiny").store(ONE)
            server.relieve()
            for name in NAMES:
                assert client.memory(name).store(ONE).version == 2
        with attractor.Client(server.address, tls=trusted, direct=False) as client:  # one shard asks the other
            assert [client.memory(name).store(ONE).version for name in NAMES] == [3, 3]
        files = {"ca": authority.ca, "cert": shown.certificate, "key": shown.key, "server-name": NAME}
        words = [word for name, value in files.items() for word in (f"--tls-{name}", str(value))]
        scaled(server, 1, *words)
        with attractor.Client(server.address, tls=trusted) as client:
            assert [client.memory(name).store(ONE).version for name in NAMES] == [4, 4]
        assert server.stop() == 0
