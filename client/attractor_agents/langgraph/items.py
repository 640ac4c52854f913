"""Items of LangGraph and items of a memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from langgraph.store.base import Item, PutOp, SearchItem

from attractor import Hit, InvalidRequest, KeptItem
from attractor_agents.langgraph.namespaces import Namespace

ID_PREFIX = "="
"""Of ids of items, since a key may be empty and an id is not"""
_KEY_LIMIT = 255
AnyItem = TypeVar("AnyItem", bound=Item)


@dataclass(frozen=True)
class StoredValue:
    """A value of LangGraph as a memory keeps it."""

    namespace: Namespace
    key: str
    value: Mapping[str, Any]
    created: datetime
    updated: datetime
    ttl_minutes: float | None

    def as_item(self) -> Item:
        """Return it as `get` does."""
        return Item(
            value=dict(self.value),
            key=self.key,
            namespace=self.namespace,
            created_at=self.created,
            updated_at=self.updated,
        )

    def as_result(self, score: float | None) -> SearchItem:
        """Return it as `search` does."""
        return SearchItem(
            namespace=self.namespace,
            key=self.key,
            value=dict(self.value),
            created_at=self.created,
            updated_at=self.updated,
            score=score,
        )


def item_id(key: str) -> str:
    """Return the id of a key.

    Raises:
        InvalidRequest: it is too long.
    """
    if len(key) > _KEY_LIMIT:
        raise InvalidRequest.of("key", f"saw {len(key)} characters; expected at most {_KEY_LIMIT}")
    return ID_PREFIX + key


def encode_value(op: PutOp, *, indexed: bool) -> dict[str, Any]:
    """Return the payload of a value, and whether it is searched by its texts."""
    return {"value": dict(op.value or {}), "ttl": op.ttl, "indexed": indexed}


def decode_value(namespace: Namespace, item: KeptItem | Hit) -> StoredValue | None:
    """Return the value that an item is; None for what something else stored, or what has expired."""
    payload = item.payload
    if not isinstance(payload, dict) or "value" not in payload or not item.id.startswith(ID_PREFIX):
        return None
    if item.expires is not None and item.expires <= datetime.now(UTC):
        return None
    created = item.created or datetime.fromtimestamp(0, UTC)
    updated = item.updated or created
    return StoredValue(namespace, item.id.removeprefix(ID_PREFIX), payload["value"], created, updated, payload["ttl"])
