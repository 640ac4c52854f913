"""TLS of a client: which servers it believes, and what it shows of itself."""

import logging
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import grpc
from anyio import to_thread

from attractor._arguments import SCHEMES
from attractor._errors import InvalidRequest

_logger = logging.getLogger("attractor")
_File: TypeAlias = str | PathLike[str]
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
"""Names of certificates in a folder, as OpenSSL looks for them"""
_OF_HOSTS = ("dns", "ipv4", "ipv6")
"""Schemes of addresses that have a host"""
_EXPECTED = "expected a PEM file with"


@dataclass(frozen=True, kw_only=True)
class TLS:
    """Files of a client that speaks TLS, in PEM. They are read again when they have changed."""

    ca: _File | None = None
    """Certificates that the server's is verified by; None: those of this system."""
    certificate: _File | None = None
    """Certificate of this client, then those that issued it, for servers that ask for one."""
    key: _File | None = None
    """Key of that certificate, without a password."""
    server_name: str = ""
    """Name in the certificates of all shards; empty: the host in the address that `connect` was given."""


@dataclass(frozen=True)
class _Contents:
    roots: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)


class Credentials:
    """Credentials for channels, from files as they are now."""

    def __init__(self, tls: TLS, address: str) -> None:
        """`address` is that of the client's first shard. `refresh` comes before anything else."""
        self.tls = tls
        self.server_name = tls.server_name or find_host(address)
        self.edition = 0
        """Number of times that the files were read"""
        self._seen: Sequence[object] = ()
        self._channel_credentials: grpc.ChannelCredentials | None = None

    @property
    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of the newest edition."""
        assert self._channel_credentials is not None
        return self._channel_credentials

    async def refresh(self) -> None:
        """Read the files, unless they are as they were.

        Raises:
            InvalidRequest: they cannot be used, and were not before.
        """
        await to_thread.run_sync(self._refresh)

    def _refresh(self) -> None:
        if (seen := _stat_files(self.tls)) == self._seen:
            return
        self._seen = seen
        try:
            contents = _read(self.tls)
        except InvalidRequest as error:
            if not self.edition:
                raise
            _logger.warning("the client's certificates stay as they were: %s", error)
            return
        self._channel_credentials = grpc.ssl_channel_credentials(contents.roots, contents.key, contents.certificate)
        self.edition += 1


def check_tls(given: object) -> TLS | None:
    """Return the TLS that `connect` was given; None for none.

    Raises:
        InvalidRequest: it is neither that nor a bool, or has a certificate without a key.
    """
    if given is None or isinstance(given, bool):
        return TLS() if given else None
    if not isinstance(given, TLS):
        raise InvalidRequest.of("tls", f"saw {type(given).__name__}; expected attractor.TLS(…), True, False or None")
    if (given.certificate is None) != (given.key is None):
        missing = "key" if given.key is None else "certificate"
        raise InvalidRequest.of(f"tls.{missing}", "saw None; expected certificate and key, both or none")
    return given


def find_host(address: str) -> str:
    """Return the host in an address of gRPC, without port and brackets."""
    if address.startswith(SCHEMES):
        scheme, _, address = address.partition(":")
        if scheme not in _OF_HOSTS:
            return "localhost"
        if address.startswith("//"):  # a name server may stand between
            address = address[2:].partition("/")[2]
    first = address.split(",")[0]
    return first[1:].partition("]")[0] if first.startswith("[") else first.partition(":")[0]


def make_context(tls: TLS) -> ssl.SSLContext:
    """Return what Python's own TLS needs to believe the same servers and to show the same certificate.

    Raises:
        InvalidRequest: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if tls.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(tls.ca)
    except (ssl.SSLError, OSError) as error:
        raise _unreadable("ca", tls.ca, error, "certificates") from error
    if tls.certificate is None or tls.key is None:
        return context
    _read_bytes("certificate", tls.certificate, "a certificate")
    if b"ENCRYPTED" in _read_bytes("key", tls.key, "a private key"):
        raise InvalidRequest.of("tls.key", f"saw {str(tls.key)!r}, which is encrypted; expected one without a password")
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            other = f"which is not the key of the first certificate in {str(tls.certificate)!r}; expected that"
            raise InvalidRequest.of("tls.key", f"saw {str(tls.key)!r}, {other}") from error
        raise _unreadable("certificate", tls.certificate, error, "a certificate, and its key in `key`") from error
    return context


def _read(tls: TLS) -> _Contents:
    make_context(tls)
    return _Contents(
        _read_system_roots() if tls.ca is None else _read_bytes("ca", tls.ca, "certificates"),
        None if tls.certificate is None else _read_bytes("certificate", tls.certificate, "a certificate"),
        None if tls.key is None else _read_bytes("key", tls.key, "a private key"),
    )


def _read_bytes(name: str, file: _File, what: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise _unreadable(name, file, error, what) from error


def _unreadable(name: str, file: _File | None, error: OSError, what: str) -> InvalidRequest:
    why = getattr(error, "reason", None) or error.strerror or error
    return InvalidRequest.of(f"tls.{name}", f"saw {str(file)!r}, which cannot be read: {why}; {_EXPECTED} {what}")


def _read_system_roots() -> bytes | None:
    """Return the certificates that OpenSSL finds here, or None for those that gRPC brings: it looks for no others."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    folder = Path(paths.capath) if paths.capath else None
    hashed = [] if folder is None else [path for path in sorted(folder.iterdir()) if _HASHED.fullmatch(path.name)]
    return b"\n".join(path.read_bytes() for path in hashed) or None


def _stat_files(tls: TLS) -> Sequence[object]:
    """Return what changes when one of the files does."""
    found: list[object] = []
    for file in (tls.ca, tls.certificate, tls.key):
        try:
            state = None if file is None else Path(file).stat()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append(state and (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return found
