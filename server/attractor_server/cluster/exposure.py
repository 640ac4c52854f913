"""Exposure of a server to other machines: refused unless it is meant, and said where it is."""

import ipaddress

from attractor_server.config import Settings
from attractor_server.errors import SettingsError

_CONSEQUENCES = {
    "TLS": "whoever is on the way reads memories and tokens",
    "identities": "whoever reaches the port reads, changes and deletes all memories",
}

_REMEDIES = {"TLS": "--tls-cert and --tls-key", "identities": "--identities"}


def check_exposure(settings: Settings) -> str:
    """Return a line that says what is open to other machines; empty where nothing is.

    Raises:
        SettingsError: something is, and nobody has said that it is meant.
    """
    host = settings.listen_host
    missing = [] if _is_loopback(host) else _find_missing(settings)
    if not missing:
        return ""
    if not settings.insecure:
        remedies = " and ".join(_REMEDIES[one] for one in missing)
        raise SettingsError(
            f"host: saw {host}, where other machines reach the port, without {' and '.join(missing)}; expected "
            f"{remedies}, a host of this machine alone, or --insecure, which says that it is meant"
        )
    consequences = ", and ".join(_CONSEQUENCES[one] for one in missing)
    return f"WARNING: insecure on {host}, without {' and '.join(missing)}: {consequences}"


def _find_missing(settings: Settings) -> list[str]:
    """Return what protects nobody here; certificates that each client has to show are identities as well."""
    there = {
        "TLS": settings.tls_cert is not None and not settings.tls_optional,
        "identities": settings.identities is not None or settings.tls_client_ca is not None,
    }
    return [name for name, present in there.items() if not present]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
