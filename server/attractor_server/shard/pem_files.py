"""PEM files of a shard that speaks TLS, read and checked."""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attractor_server.errors import SettingsError
from attractor_server.shard.spec import TLSFiles
from attractor_server.shard.trial_handshake import (
    Description,
    find_name,
    make_client_context,
    make_server_context,
    try_handshake,
)

_OVERDUE_S: Final = 14 * 86_400.0
"""Time before its end at which a certificate should have been renewed, or a fifth of its life where that is less"""

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----")
_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_ENCRYPTED: Final = re.compile(rb"ENCRYPTED")


@dataclass(frozen=True, kw_only=True)
class PemContents:
    """Contents of a shard's PEM files at one time."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    ca: bytes
    server_name: str
    """Name that other shards are verified by"""
    expires_s: float
    """Time at which the certificate expires, as `time.time` counts; 0: it is not valid now"""
    overdue_s: float
    """Time at which it should have been renewed"""
    warning: str
    """Why another shard with these files would not be believed; empty: it would"""


def read_pem_files(files: TLSFiles) -> PemContents:
    """Read the files.

    Raises:
        SettingsError: one is missing, cannot be read, or does not go with the others.
    """
    before = stat_files(files)
    certificate = _read("tls_cert", files.certificate, _CERTIFICATE, "a certificate")
    key = _read("tls_key", files.key, _KEY, "a private key")
    if _ENCRYPTED.search(key):
        raise SettingsError(f"tls_key: saw {str(files.key)!r}, which is encrypted; expected a key without a password")
    client_ca = None if files.client_ca is None else _read_authorities("tls_client_ca", files.client_ca)
    ca = certificate if files.ca is None else _read_authorities("tls_ca", files.ca)
    try:
        server = make_server_context(files.certificate, files.key)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(_explain_pair(files, error)) from error
    name, seen, warning = _check_peers(files, server)
    begins_s, expires_s = (
        ssl.cert_time_to_seconds(seen[at]) if at in seen else 0.0 for at in ("notBefore", "notAfter")
    )
    if stat_files(files) != before:
        raise SettingsError(f"tls_cert: {str(files.certificate)!r} and what goes with it changed while they were read")
    return PemContents(
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        ca=ca,
        server_name=name,
        expires_s=expires_s,
        overdue_s=expires_s - min(_OVERDUE_S, (expires_s - begins_s) / 5),
        warning=warning,
    )


def stat_files(files: TLSFiles) -> tuple[object, ...]:
    """Return what changes when one of the files does."""
    found: list[object] = []
    for path in (files.certificate, files.key, files.client_ca, files.ca):
        try:
            state = None if path is None else path.stat()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append(state and (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return tuple(found)


def _read(setting: str, path: Path, mark: "re.Pattern[bytes]", what: str) -> bytes:
    expected = f"expected a PEM file with {what}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{setting}: saw {str(path)!r}, which cannot be read: {error.strerror}; {expected}"
        ) from error
    if not mark.search(content):
        raise SettingsError(f"{setting}: saw {str(path)!r}, which has none; {expected}")
    return content


def _read_authorities(setting: str, path: Path) -> bytes:
    content = _read(setting, path, _CERTIFICATE, "certificates")
    try:
        make_client_context(path)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"{setting}: saw {str(path)!r}, which is damaged: {_reason(error)}") from error
    return content


def _explain_pair(files: TLSFiles, error: OSError) -> str:
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return (
            f"tls_key: saw {str(files.key)!r}, which is not the key of the first certificate in "
            f"{str(files.certificate)!r}; expected that"
        )
    return (
        f"tls_cert: saw {str(files.certificate)!r}, with the key in {str(files.key)!r}, one of which is damaged: "
        f"{_reason(error)}"
    )


def _check_peers(files: TLSFiles, server: ssl.SSLContext) -> tuple[str, Description, str]:
    """Return the name that shards verify one another by, their certificate, and why it would not be believed."""
    own, name = files.certificate, files.server_name
    seen: Description = {}
    try:
        seen = try_handshake(server, make_client_context(own, named=False))
        name = name or find_name(seen)
        both = make_server_context(own, files.key, client_ca=files.client_ca)
        try_handshake(both, make_client_context(files.ca or own, pair=(own, files.key)), name)
    except (ssl.SSLError, ValueError) as error:
        return name, seen, f"{str(own)!r} is refused: {_reason(error)}"
    return name, seen, ""


def _reason(error: Exception) -> str:
    """Return what OpenSSL says, without its numbers and the place in its sources."""
    return str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error).rstrip(".")
