"""Reasons why client and server do not come to speak: gRPC tells of most as of a lost connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio import to_thread

from attractor._errors import HandshakeFailed, InvalidRequest
from attractor._tls import Credentials, find_host, make_context

_LIMIT_S = 2.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
"""Start of a connection of HTTP/2, with a frame of settings that change none"""
_FRAME_HEAD = 9
_SETTINGS = b"\4"
_REASONS = {
    9: "CERTIFICATE_NOT_YET_VALID",
    10: "CERTIFICATE_EXPIRED",
    62: "CERTIFICATE_OF_OTHER_NAME",
    64: "CERTIFICATE_OF_OTHER_NAME",
}
"""Reasons by the codes of OpenSSL"""
_UNKNOWN_ISSUER = (
    "the certificate of {address} was issued by none that this client believes: {why}; "
    "expected tls=attractor.TLS(ca=…) with the one that issued it"
)


async def find_failure(
    address: str, credentials: Credentials | None, limit_s: float = _LIMIT_S
) -> HandshakeFailed | None:
    """Connect once more, by Python's own TLS; return why that fails, or None where TLS is not the reason."""
    if not (port := _find_port(address)):
        return None
    with anyio.move_on_after(min(limit_s, _LIMIT_S)), suppress(OSError, EOFError, InvalidRequest):
        if credentials is None:
            return await _try_plain(address, find_host(address), port)
        return await _try_tls(address, find_host(address), port, credentials)
    return None


async def _try_plain(address: str, host: str, port: int) -> HandshakeFailed | None:
    if await _gets_settings(host, port):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with _connect(host, port, context):
        message = f"{address} speaks TLS, and this client does not; expected tls=True, or tls=attractor.TLS(…)"
        return HandshakeFailed(message, reason="TLS_EXPECTED")


async def _try_tls(address: str, host: str, port: int, credentials: Credentials) -> HandshakeFailed | None:
    context, name = await to_thread.run_sync(make_context, credentials.tls), credentials.server_name
    try:
        if await _gets_settings(host, port, context, name):
            return None
    except ssl.SSLCertVerificationError as error:
        return _explain_certificate(address, name, error)
    except ssl.SSLError:
        if await _gets_settings(host, port):
            message = f"{address} does not speak TLS, and this client does; expected a server with --tls-cert"
            return HandshakeFailed(message, reason="TLS_NOT_SPOKEN")
        return None
    if not await _is_refused(host, port, context, name):
        return None
    if credentials.tls.certificate is None:
        seen = "saw none; expected tls=attractor.TLS(certificate=…, key=…)"
    else:
        seen = f"it does not take the one in {str(credentials.tls.certificate)!r}"
    return HandshakeFailed(f"{address} asks for a certificate of the client: {seen}", reason="CLIENT_CERTIFICATE")


async def _is_refused(host: str, port: int, context: ssl.SSLContext, name: str) -> bool:
    """Return whether the server does not take what this client shows, rather than end connections for another reason.

    In TLS 1.3 a client does not see that: its handshake is over before the server looks. In TLS 1.2 it fails.
    """
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        async with _connect(host, port, context, name):
            return False
    except ConnectionRefusedError:
        return False
    except (ConnectionError, EOFError, ssl.SSLError):
        return True


def _explain_certificate(address: str, name: str, error: ssl.SSLCertVerificationError) -> HandshakeFailed:
    why = error.verify_message.rstrip(".")
    reason = _REASONS.get(error.verify_code, "CERTIFICATE_OF_UNKNOWN_ISSUER")
    match reason:
        case "CERTIFICATE_OF_UNKNOWN_ISSUER":
            message = _UNKNOWN_ISSUER.format(address=address, why=why)
        case "CERTIFICATE_OF_OTHER_NAME":
            message = f"the certificate of {address} is not for {name!r}; expected tls=attractor.TLS(server_name=…)"
        case _:
            message = f"the certificate of {address} is not valid now: {why}; expected a renewed one"
    return HandshakeFailed(message, reason=reason)


async def _gets_settings(host: str, port: int, context: ssl.SSLContext | None = None, name: str = "") -> bool:
    """Return whether a server of HTTP/2 answers.

    Raises:
        OSError: no connection can be made.
    """
    async with _connect(host, port, context, name) as (reader, writer):
        writer.write(_PREFACE)
        with suppress(ConnectionError, EOFError):
            return (await reader.readexactly(_FRAME_HEAD))[3:4] == _SETTINGS
    return False


@asynccontextmanager
async def _connect(
    host: str, port: int, context: ssl.SSLContext | None, name: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    named = (name or host) if context is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=named)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _find_port(address: str) -> int:
    """Return the port of an address; 0 where it has none that could be connected to here."""
    _, _, port = address.rpartition(":")
    return (
        int(port) if port.isdecimal() and not address.startswith(("unix:", "unix-abstract:", "vsock:", "xds:")) else 0
    )
