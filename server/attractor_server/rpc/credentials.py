"""gRPC's credentials from a shard's certificates."""

from collections.abc import Sequence
from typing import TypeAlias

import grpc
from grpc import aio

from attractor_server.shard.certificates import Certificates
from attractor_server.shard.pem_files import PemContents

Options: TypeAlias = Sequence[tuple[str, str | int]]


def make_server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that look at the files whenever a client connects; open connections go on."""
    given = certificates.current

    def look() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if (now := certificates.look()) is given:
            return None
        given = now
        return _configure(now)

    required = certificates.files.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(_configure(given), look, required)  # type: ignore[arg-type] # None: same


def open_channel(address: str, options: Options, contents: PemContents | None) -> aio.Channel:
    """Return a channel to another shard; None: without TLS.

    With TLS the other one is verified by the name of all shards, whatever its address. Where clients need a
    certificate this shard shows its own.
    """
    if contents is None:
        return aio.insecure_channel(address, options=options)
    shown = (contents.key, contents.certificate) if contents.client_ca else (None, None)
    credentials = grpc.ssl_channel_credentials(contents.ca, *shown)
    named = (("grpc.ssl_target_name_override", contents.server_name),) if contents.server_name else ()
    return aio.secure_channel(address, credentials, options=(*options, *named))


def _configure(contents: PemContents) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(contents.key, contents.certificate)], root_certificates=contents.client_ca
    )
