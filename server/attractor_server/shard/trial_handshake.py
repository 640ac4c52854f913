"""Handshakes of TLS in memory, which tell what a peer would say of a shard's certificate."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

Description: TypeAlias = Mapping[str, Any]
"""What a certificate says, as `ssl.SSLSocket.getpeercert` has it"""

_ROUNDS: Final = 8
"""More than a handshake takes"""


def make_server_context(certificate: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return the server's side of a handshake.

    Raises:
        ssl.SSLError: certificate and key are not of one pair, or no certificate and no key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def make_client_context(ca: Path, *, pair: tuple[Path, Path] | None = None, named: bool = True) -> ssl.SSLContext:
    """Return the client's side: it believes certificates in `ca`, and those that were issued by one of them.

    It shows the certificate of `pair`, with its key, if it is asked for one. Unless `named` any name will do.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = named
    context.load_verify_locations(ca)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def try_handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "") -> Description:
    """Have two sides shake hands; return what the client read in the server's certificate.

    Raises:
        ssl.SSLError: one of them refuses.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=name or None)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    open_sides = [asking, answering]
    for _ in range(_ROUNDS):
        for side in tuple(open_sides):
            try:
                side.do_handshake()
                open_sides.remove(side)
            except ssl.SSLWantReadError:
                continue
    return asking.getpeercert() or {}


def find_name(description: Description) -> str:
    """Return the first name of a certificate, one of those that a wildcard stands for; empty where it has none."""
    names = [name for _, name in description.get("subjectAltName", ())]
    subject = dict(pair for part in description.get("subject", ()) for pair in part)
    name = str(next(iter(names), subject.get("commonName", "")))
    return name.replace("*", "shard", 1) if name.startswith("*.") else name
