"""Pages of the admin port, as a bare ASGI application."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import anyio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from attractor_server.admin.debug import describe_stacks, describe_tasks, profile

logger = logging.getLogger(__name__)

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]

TEXT: Final = "text/plain; charset=utf-8"

PROFILE_S: Final = 5.0

PROFILE_LIMIT_S: Final = 60.0


@dataclass(frozen=True)
class Answer:
    """Status, body and its type."""

    status: int
    body: str | bytes
    kind: str = TEXT


@dataclass(frozen=True, kw_only=True)
class AdminPages:
    """Probes, metrics, settings, and with `debug` a look at the process. GET and HEAD alone."""

    registry: CollectorRegistry
    settings: Mapping[str, object]
    """In force, without secrets"""
    find_hindrance: Callable[[], str]
    """Returns why no requests should come here; empty: they may"""
    debug: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        headers = [(b"content-type", answer.kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return Answer(405, f"saw {scope['method']}; expected GET\n")
        pages: dict[str, Callable[[Scope], Awaitable[Answer]]] = {
            "/livez": self._live,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/config": self._config,
        }
        if self.debug:
            pages |= {"/debug/stacks": self._stacks, "/debug/tasks": self._tasks, "/debug/profile": self._profile}
        if (page := pages.get(scope["path"])) is None:
            return Answer(404, f"expected one of {', '.join(pages)}\n")
        try:
            return await page(scope)
        except Exception:
            logger.exception("the page %s failed", scope["path"])
            return Answer(500, "internal error; the server's log says more\n")

    async def _live(self, scope: Scope) -> Answer:
        return Answer(200, "the event loop answers\n")

    async def _ready(self, scope: Scope) -> Answer:
        hindrance = self.find_hindrance()
        return Answer(503, f"{hindrance}\n") if hindrance else Answer(200, "serving\n")

    async def _metrics(self, scope: Scope) -> Answer:
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        encode, kind = choose_encoder(accept)
        return Answer(200, await anyio.to_thread.run_sync(encode, self.registry), kind)

    async def _config(self, scope: Scope) -> Answer:
        return Answer(200, json.dumps(self.settings, indent=2, sort_keys=True, default=str) + "\n", "application/json")

    async def _stacks(self, scope: Scope) -> Answer:
        return Answer(200, describe_stacks())

    async def _tasks(self, scope: Scope) -> Answer:
        return Answer(200, describe_tasks())

    async def _profile(self, scope: Scope) -> Answer:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("seconds", [str(PROFILE_S)])[-1]
        try:
            seconds = float(given)
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds <= PROFILE_LIMIT_S:
            return Answer(400, f"seconds: saw {given!r}; expected more than 0, at most {PROFILE_LIMIT_S:g}\n")
        return Answer(200, await anyio.to_thread.run_sync(profile, seconds))
