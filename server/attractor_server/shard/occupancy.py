"""Clients with sessions, and the memories that these have open, by namespace."""

from collections import Counter, defaultdict
from collections.abc import Mapping

from attractor_server.errors import QuotaExceeded
from attractor_server.identity.quotas import Quotas
from attractor_server.memories.names import namespace_of


class Occupancy:
    """Counts what sessions hold of this shard. Lives on one event loop."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._handles: Counter[str] = Counter()
        self._clients: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Handles of each client, by namespace"""

    def open(self, client: str, name: str) -> None:
        """Count one more handle of a client, to the memory of that name.

        Raises:
            QuotaExceeded: its namespace has as many as it may, or has as many clients.
        """
        namespace = namespace_of(name)
        quota, handles = self._quotas.of(namespace), self._handles[namespace]
        if quota.handles is not None and handles >= quota.handles:
            self._quotas.on_limit(namespace)
            raise QuotaExceeded(namespace, "handles", handles, quota.handles)
        clients: Mapping[str, int] = self._clients.get(namespace, {})
        if quota.sessions is not None and client not in clients and len(clients) >= quota.sessions:
            self._quotas.on_limit(namespace)
            raise QuotaExceeded(namespace, "sessions", len(clients), quota.sessions)
        self._handles[namespace] += 1
        self._clients[namespace][client] += 1

    def close(self, client: str, name: str) -> None:
        """Count one handle less."""
        namespace = namespace_of(name)
        clients = self._clients[namespace]
        self._handles[namespace] -= 1
        clients[client] -= 1
        if not clients[client]:
            del clients[client]
        if not clients:
            del self._clients[namespace], self._handles[namespace]
