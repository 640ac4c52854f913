"""The password in the address of a PostgreSQL database, apart from it."""

from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from attractor_server.errors import SettingsError

SCHEMES: Final = ("postgresql://", "postgres://")


def split_password(uri: str) -> tuple[str, str]:
    """Return the address without its password, and that; another address, or one without, stays as it is."""
    if not uri.startswith(SCHEMES):
        return uri, ""
    import psycopg  # noqa: PLC0415 - which parts of a server that open no store do without
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        given = conninfo_to_dict(uri)
    except (psycopg.Error, ValueError):
        return uri, ""  # whoever opens it says what is wrong
    if not (password := str(given.pop("password", None) or "")):
        return uri, ""
    return f"{SCHEMES[0]}?{urlencode(given, quote_via=quote)}", password


def join_password(uri: str, password: str) -> str:
    """Return the address with that password; without one, or of another database, as it is."""
    if not (password and uri.startswith(SCHEMES)):
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode({'password': password}, quote_via=quote)}"


def read_password(file: Path | None) -> str:
    """Return the password in a file, without the end of its line; of no file, none.

    Raises:
        SettingsError: it cannot be read.
    """
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # whose words repeat it
        raise SettingsError(
            f"backend_password_file: saw {str(file)!r}, which is no text; expected a password"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"backend_password_file: saw {str(file)!r}, which cannot be read here: {error.strerror}; expected a file "
            "with the password, on each node of a Ray cluster"
        ) from error
