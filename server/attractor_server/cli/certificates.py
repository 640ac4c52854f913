"""Certificates as `attractor doctor` looks at them."""

import time

import attractor
from attractor_server.cluster.serve import tls_files_of
from attractor_server.config import Settings
from attractor_server.shard.pem_files import read_pem_files
from attractor_server.storage.findings import Finding


def examine_certificates(settings: Settings) -> Finding:
    """Find out whether a server can speak TLS with its files, and its shards with one another.

    Raises:
        SettingsError: it cannot.
    """
    files = tls_files_of(settings)
    assert files is not None
    contents = read_pem_files(files)
    if contents.warning:
        return Finding("wrong", "TLS", f"shards and clients would not believe this server: {contents.warning}")
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(contents.expires_s))
    told = f"the certificate in {files.certificate} is valid until {until} UTC"
    if contents.overdue_s < time.time():
        return Finding("warning", "TLS", f"{told}; expected a renewed one by now")
    return Finding("ok", "TLS", told)


def make_client_tls(settings: Settings, *, asked: bool) -> attractor.TLS | None:
    """Return what a client speaks TLS with that believes and shows what this server's shards do; None for no TLS.

    Raises:
        SettingsError: the server's files are of no use.
    """
    if not (asked or settings.tls_cert or settings.tls_ca):
        return None
    name = settings.tls_server_name
    if not (name or asked) and (files := tls_files_of(settings)):
        name = read_pem_files(files).server_name
    return attractor.TLS(
        ca=settings.tls_ca or (None if asked else settings.tls_cert),
        certificate=settings.tls_cert,
        key=settings.tls_key,
        server_name=name,
    )
