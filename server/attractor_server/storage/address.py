"""Where a PostgreSQL database is, as `--backend-store-uri` says it."""

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from attractor_server.errors import SettingsError

SCHEMES: Final = ("postgresql://", "postgres://")
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
    """A database; as text it names no password."""

    def __init__(self, uri: str) -> None:
        """Takes apart a URI that begins with `postgresql://`.

        Raises:
            SettingsError: it is none.
        """
        scheme, _, rest = uri.partition("://")
        if not uri.startswith(SCHEMES):
            raise SettingsError(
                f"backend_store_uri: saw one that begins with {scheme!r}; expected postgresql://USER@HOST:PORT/DATABASE"
            )
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(uri).items() if value is not None}
        except psycopg.Error as error:
            raise SettingsError(
                f"backend_store_uri: the address on {rest.rpartition('@')[2]!r} cannot be read: "
                f"{str(error).strip()}; expected postgresql://USER@HOST:PORT/DATABASE"
            ) from None
        self.parameters: str = make_conninfo("", **{**_DEFAULTS, **given})
        self._place = f"postgresql://{given.get('host', '')}{_port(given)}/{given.get('dbname', '')}"

    def __str__(self) -> str:
        return self._place


def _port(given: Mapping[str, str]) -> str:
    return f":{given['port']}" if "port" in given else ""
