"""Where a PostgreSQL database is, as `--backend-store-uri` says it."""

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from attractor_server.errors import SettingsError

SCHEMES: Final = ("postgresql://", "postgres://")
_EXPECTED: Final = (
    "expected postgresql://USER@HOST:PORT/DATABASE, where the characters %, /, @, :, [, ?, # and spaces of a password "
    "are percent-encoded, as %25 for %"
)
_DEFAULTS: Mapping[str, str] = {
    "application_name": "attractor",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "target_session_attrs": "read-write",
}
"""What the address does not say: a peer that is gone is noticed, and of several hosts the one that takes writes is
meant"""


class Address:
    """A database; as text it names no password.

    A password with characters that are not percent-encoded is taken for other parts of a URI. So no message repeats
    what cannot be read, nor does the text name a part that only such a password can be.
    """

    def __init__(self, uri: str) -> None:
        """Takes apart a URI that begins with `postgresql://`.

        Raises:
            SettingsError: it is none.
        """
        if not uri.startswith(SCHEMES):
            raise SettingsError(f"backend_store_uri: saw one that does not begin with {SCHEMES[0]}; {_EXPECTED}")
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(uri).items() if value is not None}
        except (psycopg.Error, ValueError):  # whose words repeat it
            raise SettingsError(f"backend_store_uri: the address cannot be read; {_EXPECTED}") from None
        if not _can_be_meant(given):
            raise SettingsError(f"backend_store_uri: the address has a host or port that cannot be; {_EXPECTED}")
        self.parameters: str = make_conninfo("", **{**_DEFAULTS, **given})
        self._place = f"postgresql://{_host(given)}{_port(given)}/{_database(given)}"

    def __str__(self) -> str:
        return self._place


def _can_be_meant(given: Mapping[str, str]) -> bool:
    """Whether hosts and ports are none that a password with `@`, `/` or `:` would make them."""
    hosts, ports = given.get("host", "").split(","), given.get("port", "").split(",")
    if any("@" in host[1:] for host in hosts) or any(port.strip(" +") and not port.strip().isdigit() for port in ports):
        return False
    return "user" in given or "@" not in given.get("dbname", "")


def _host(given: Mapping[str, str]) -> str:
    hosts = given.get("host", "").split(",")
    return ",".join(f"[{host}]" if ":" in host else host for host in hosts)


def _database(given: Mapping[str, str]) -> str:
    name = given.get("dbname", "")
    return "…" if set(name) & set("@:/=?") else name


def _port(given: Mapping[str, str]) -> str:
    return f":{given['port']}" if "port" in given else ""
