"""Reports of a shard's parts on their work. This recorder keeps nothing; `admin` has one that counts."""

from collections.abc import Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from attractor_server.errors import ServerError
    from attractor_server.memories.outcomes import Outcome, OutcomeFuture
    from attractor_server.scheduling.jobs import Job

OK: Final = "OK"
"""The reason of a request that did not fail"""


class SessionHandles(Protocol):
    """The memories that a session has bound, and its sessions with their owners."""

    @property
    def bound(self) -> Sized: ...  # noqa: D102

    @property
    def upstreams(self) -> Sized: ...  # noqa: D102


class RequestTrace(Protocol):
    """A request that is traced until it is answered."""

    def end_with(self, answer: "OutcomeFuture") -> None:
        """End the trace by the answer that a job got."""

    def end(self, reason: str = "") -> None:
        """End the trace; `reason` says why the request failed, if it did."""


class Recorder:
    """Takes reports and does nothing with them. Reports are few: one a batch or a commit, and one an answer."""

    def record_answers(self, operation: str, model: str, path: str, reason: str, took_s: Sequence[float]) -> None:
        """Take note of requests that are answered, with the time that each took. On the event loop."""

    def record_refusal(self, namespace: str) -> None:
        """Take note of a request that found the waiting room full. On the event loop."""

    def record_limit(self, namespace: str) -> None:
        """Take note of a request that a quota of its namespace refused, or held back. In any thread."""

    def record_batch(
        self, jobs: "Sequence[Job]", outcomes: "Sequence[Outcome | ServerError]", started_s: float, ended_s: float
    ) -> None:
        """Take note of a batch that is computed, by `perf_counter`. In the engine's thread."""

    def record_restores(self, model: str, memories: int, took_s: float) -> None:
        """Take note of memories that came back from the store together."""

    def record_commit(self, memories: int, took_s: float) -> None:
        """Take note of a commit of so many memories' changes."""

    def record_store_failure(self) -> None:
        """Take note of a transaction that failed."""

    def record_damaged_image(self) -> None:
        """Take note of an image that was damaged, or is gone."""

    def record_artifact(self, call: str, took_s: float) -> None:
        """Take note of a call to the artifact store."""

    def record_forwarded(self, kind: str, requests: int = 1) -> None:
        """Take note of what was passed on to the shard that owns its memory: a `call`, or requests of a `session`."""

    def record_expired(self) -> None:
        """Take note of a memory that was deleted since its time was over."""

    def record_moves(self, groups: int) -> None:
        """Take note of groups of slots that were claimed or released."""

    def open_session(self, handles: SessionHandles) -> None:
        """Count a session until `close_session`."""

    def close_session(self, handles: SessionHandles) -> None:
        """Count it no more."""

    def trace_request(self, parent: bytes, operation: str, model: str) -> RequestTrace | None:
        """Return the trace of a request that its client traces; None for none. `parent` is the context it came with."""
        return None

    def trace_batch(self, jobs: "Sequence[Job]") -> AbstractContextManager[object]:
        """Return a context for a batch that the engine is at, in its thread."""
        return _NO_SPAN

    def trace_forward(self, parents: bytes) -> AbstractContextManager[object]:
        """Return a context for passing on requests that came with these contexts."""
        return _NO_SPAN

    def span(self, name: str) -> AbstractContextManager[object]:
        """Return a context for a part of a batch."""
        return _NO_SPAN


_NO_SPAN: Final = nullcontext()

SILENT: Final = Recorder()
"""For parts that nobody listens to"""
