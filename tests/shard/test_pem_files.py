"""A shard's PEM files, and what is told of those that are of no use."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tests.support.certificates import NAME, Authority, Pair, files_of

from attractor_server.errors import SettingsError
from attractor_server.shard.pem_files import read_pem_files
from attractor_server.shard.spec import TLSFiles


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def files(authority: Authority) -> TLSFiles:
    return files_of(authority.issue("server"), authority.ca, client_ca=authority.ca)


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def damaged(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"A" + lines[1][:-8], *lines[2:]]))


def encrypted(path: Path) -> None:
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))


@pytest.mark.parametrize(
    ("field", "spoil", "message"),
    [
        ("certificate", removed, "tls_cert: saw .* cannot be read: No such file or directory; expected a PEM file"),
        ("key", removed, "tls_key: saw .* cannot be read: No such file or directory; expected a PEM file"),
        ("client_ca", removed, "tls_client_ca: saw .* cannot be read: No such file"),
        ("certificate", emptied, "tls_cert: saw .* which has none; expected a PEM file with a certificate"),
        ("key", emptied, "tls_key: saw .* which has none; expected a PEM file with a private key"),
        ("ca", emptied, "tls_c.*: saw .* which has none; expected a PEM file with certificates"),
        ("certificate", damaged, "tls_cert: saw .* one of which is damaged"),
        ("key", damaged, "tls_cert: saw .* one of which is damaged"),
        ("client_ca", damaged, "tls_client_ca: saw .* which is damaged"),
        ("key", encrypted, "tls_key: saw .* which is encrypted; expected a key without a password"),
    ],
)
def test_a_file_that_is_of_no_use_is_told_by_its_setting(
    files: TLSFiles, field: str, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(getattr(files, field))
    with pytest.raises(SettingsError, match=f"^{message}") as caught:
        read_pem_files(files)
    assert "\n" not in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_is_not_to_be_read_is_told(files: TLSFiles) -> None:
    files.key.chmod(0)
    with pytest.raises(SettingsError, match=r"^tls_key: saw .* cannot be read: Permission denied"):
        read_pem_files(files)


def test_a_key_of_another_certificate_is_told(authority: Authority, files: TLSFiles) -> None:
    other = authority.issue("other")
    with pytest.raises(SettingsError, match=r"^tls_key: saw .*other.key.* which is not the key of .*server.pem"):
        read_pem_files(replace(files, key=other.key))


@pytest.mark.parametrize(
    ("issued", "expected"), [("a.test", "a.test"), ("*.a.test", "shard.a.test"), ("10.0.0.1", "10.0.0.1")]
)
def test_shards_expect_the_first_name_of_the_certificate(authority: Authority, issued: str, expected: str) -> None:
    contents = read_pem_files(files_of(authority.issue("server", name=issued), authority.ca))
    assert (contents.server_name, contents.warning) == (expected, "")


def test_that_shards_would_not_believe_one_another_is_a_warning(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    good, old = authority.issue("server"), authority.issue("old", expired=True)

    def warn(pair: Pair, ca: Path, **more: object) -> str:
        return read_pem_files(replace(files_of(pair, ca), **more)).warning  # type: ignore[arg-type]

    assert warn(good, authority.ca) == warn(good, authority.ca, server_name=NAME) == ""
    assert "certificate has expired" in warn(old, authority.ca)
    assert "unable to get local issuer" in warn(good, other.ca)
    assert "Hostname mismatch" in warn(good, authority.ca, server_name="b.test")
    assert "server.pem' is refused" in warn(good, authority.ca, client_ca=other.ca)
