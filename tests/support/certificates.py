"""Certificates for tests, by authorities of their own, in files as a server and its clients have them."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

import attractor
from attractor_server.shard.spec import TLSFiles

NAME = "attractor.test"
"""Name of every server, at whatever address"""
_LONG_AGO = (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 2, 1, tzinfo=dt.UTC))


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path

    def become(self, other: "Pair") -> None:
        """Puts another one in its place, file by file, as those do that renew certificates."""
        for mine, new in ((self.certificate, other.certificate), (self.key, other.key)):
            draft = mine.with_suffix(".draft")
            draft.write_bytes(new.read_bytes())
            draft.replace(mine)


class Authority:
    """An authority, with its own certificate in a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, file: str, *, name: str = NAME, expired: bool = False, hours_left: float = 0) -> Pair:
        """A certificate and its key, in files of that name."""
        since, until = _LONG_AGO if expired else (None, None)
        if hours_left:
            until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours_left)
        issued = self._authority.issue_cert(name, not_before=since, not_after=until)
        pair = Pair(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        pair.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(pair.key)
        return pair


def files_of(pair: Pair, ca: Path, *, client_ca: Path | None = None, optional: bool = False) -> TLSFiles:
    """What a shard speaks TLS with."""
    return TLSFiles(certificate=pair.certificate, key=pair.key, ca=ca, client_ca=client_ca, optional=optional)


def tls_of(ca: Path, shown: Pair | None = None, *, server_name: str = NAME) -> attractor.TLS:
    """What a client believes and shows."""
    certificate, key = (shown.certificate, shown.key) if shown else (None, None)
    return attractor.TLS(ca=ca, certificate=certificate, key=key, server_name=server_name)


def credentials_of(pair: Pair, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """What a gRPC server of a test speaks TLS with."""
    return grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())],
        None if client_ca is None else client_ca.read_bytes(),
        client_ca is not None,
    )
