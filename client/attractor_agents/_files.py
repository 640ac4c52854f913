"""Files of models in other packages: found without importing these, and checked."""

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from attractor import AttractorError


class EncoderMissing(AttractorError):
    """A package or file of an encoder is missing, or is another than the one that it was made with."""

    default_reason = "ENCODER_MISSING"


def read_checked(path: Path, sha256: str) -> bytes:
    """Return the content of a file.

    Raises:
        EncoderMissing: it is not there, or has another content.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EncoderMissing(f"{path}: {error.strerror}; expected a file of the encoder") from error
    if (seen := hashlib.sha256(content).hexdigest()) != sha256:
        raise EncoderMissing(f"{path}: saw content with SHA-256 {seen}; expected {sha256}")
    return content


def find_in_package(package: str, path: str, extra: str) -> Path:
    """Return where a package has a file.

    Raises:
        EncoderMissing: the package is not installed.
    """
    try:
        return Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        raise explain_missing(package, extra) from None


def explain_missing(package: str, extra: str) -> EncoderMissing:
    """Return the error that says how to install what is missing."""
    return EncoderMissing(f"{package} is not installed: pip install 'attractor-agents[{extra}]', or name an encoder")
