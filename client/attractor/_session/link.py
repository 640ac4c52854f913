"""Links to shards: one stream at a time, opened anew when it is lost and a request waits."""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import anyio

from attractor._concurrency import BackgroundTasks
from attractor._errors import (
    AttractorError,
    InvalidRequest,
    MemoryNotFound,
    Refused,
    ServerFault,
    Unauthenticated,
    Unavailable,
    Unreachable,
    from_status,
)
from attractor._results import Piece, RecallSlice, attach_trajectory
from attractor._session.channel import Channel
from attractor._session.memory_queues import MemoryQueue
from attractor._session.operations import DECODERS
from attractor._session.outbox import Outbox
from attractor._session.request import Request
from attractor._session.stream import Session, open_session
from attractor._settings import Limits, Settings
from attractor._token import Metadata, TokenSource
from attractor_proto.v1 import memory_data_pb2 as pb

_logger = logging.getLogger("attractor")
_FRUITLESS_LIMIT = 2
"""Sessions in a row without a result, until another way is tried."""
_UNBOUND = ("MEMORY_NOT_FOUND", "HANDLE_NOT_OPEN", "OWNER_UNREACHABLE")


class LinkRoutes(Protocol):
    """The client's other links, as one of them sees them."""

    def set_shards(self, shards: Sequence[str]) -> None:
        """Take the addresses of the server's shards, each of which answers any client."""

    def redirect(self, link: "Link", memory: str, route: str) -> bool:
        """Move a memory to the link of that address. Return False if it stays where it is."""

    def reset_hops(self, memory: str) -> None:
        """Note that the link speaks to the memory's owner."""

    def forget(self, memory: str) -> None:
        """Forget a memory that does not exist."""

    def fall_back(self, link: "Link", *, avoid: bool) -> bool:
        """End that link and move everything on it to where it came from. Return False if there is no such place.

        Then waiting requests may go by another link all the same, for as long as this one fails.
        """


class Link:
    """Connection to one shard: sends the requests of its outbox, and hands results to the callers."""

    def __init__(  # noqa: PLR0913 - both ends of a connection, and how it is made
        self,
        channel: Channel,
        outbox: Outbox,
        routes: LinkRoutes,
        settings: Settings,
        tokens: TokenSource,
        timeout_s: float,
    ) -> None:
        """`timeout_s` bounds each attempt to open a session."""
        self.channel = channel
        self.outbox = outbox
        self.limits = Limits()
        self.failure: AttractorError | None = None
        """Reason for which the last session ended, or could not be opened; None while one is open."""
        self.refusal: AttractorError | None = None
        """Reason for which no session can be opened, however often it is tried."""
        self.attempted = anyio.Event()
        """Event that the first session is open, or there can be none."""
        self._routes = routes
        self._settings = settings
        self._tokens = tokens
        self._timeout_s = timeout_s
        self._was_open = False
        self._had_results = False
        self._drained = False

    @property
    def is_open(self) -> bool:
        """Whether a session is open."""
        return self._was_open and self.failure is None

    async def run(self, *, eager: bool) -> None:
        """Serve until cancelled, or until all has fallen back to another link.

        `eager` opens a session before there is anything to send.
        """
        fruitless = 0
        while True:
            while not self._needs_session(eager):
                await self.outbox.changed.wait()
            await self._run_session()
            fruitless = 0 if self._had_results or not self._needs_session(eager) else fruitless + 1
            if self._fall_back(fruitless):
                return
            if fruitless:
                await anyio.sleep(self._settings.retry.delay_s(fruitless))

    def _needs_session(self, eager: bool) -> bool:
        return self.outbox.needs_stream or (eager and not self.attempted.is_set())

    def _fall_back(self, fruitless: int) -> bool:
        """Hand over to another link, if this one fails, drains, or is no longer used. Return whether one took over."""
        failing = self._drained or not self._was_open or fruitless > _FRUITLESS_LIMIT
        if (failing or not self.outbox.needs_stream) and self._routes.fall_back(self, avoid=failing):
            return True
        if self.failure is not None and not self._was_open and not isinstance(self.failure, Unavailable):
            self.refusal = self.failure
            self.outbox.fail(self.failure)
            self.attempted.set()
        return False

    async def _run_session(self) -> None:
        """Open one session and serve it to its end."""
        self._had_results = self._was_open = self._drained = False
        try:
            metadata = await self._read_token()
            async with open_session(self.channel, self._settings.client_id, self._timeout_s, metadata) as session:
                self._begin(session)
                async with BackgroundTasks() as tasks:
                    tasks.start_soon(self._send, session)
                    await self._receive(session)
            self._end(Unavailable("the server ended the session"))
        except AttractorError as error:
            self._end(error)
        except Exception as error:  # a fault of this code must not leave callers waiting
            _logger.exception("unforeseen error in the session with %s", self.channel.address)
            self._end(ServerFault(f"unforeseen {type(error).__name__}: {error}"))

    async def _read_token(self) -> Metadata:
        with anyio.move_on_after(self._timeout_s):
            return await self._tokens.renew()
        raise Unreachable(f"no token within {self._timeout_s:g} s: the function that returns it did not")

    def _begin(self, session: Session) -> None:
        self.limits, self._was_open, self.failure = session.limits, True, None
        self._routes.set_shards(session.shards)
        self.attempted.set()

    def _end(self, error: AttractorError) -> None:
        """Keep requests that may be repeated for the next session, and fail the others."""
        if self._was_open and isinstance(error, Unauthenticated):
            error = Unavailable(f"the session ended with the identity: {error}", reason=error.reason)
        self.failure = error
        in_flight = self.outbox.reset()
        if isinstance(error, Unavailable):
            self.outbox.requeue(in_flight)
            self.outbox.record_failure(error)
        else:
            for request in in_flight:
                request.fail(error.copy())

    async def _send(self, session: Session) -> None:
        while True:
            while (message := self.outbox.next_message(session.limits, anyio.current_time())) is not None:
                if not await session.write(message):
                    return
            await self.outbox.changed.wait()

    async def _receive(self, session: Session) -> None:
        """Take frames until the server ends the stream, or wants the client gone and has answered everything."""
        while not (self.outbox.draining and not self.outbox.awaits_results):
            if (message := await session.read()) is None:
                return
            self._take_frame(message)

    def _take_frame(self, message: pb.SessionResponse) -> None:
        name = message.WhichOneof("frame")
        if (decode := DECODERS.get(name or "")) is not None:
            for request_id, result in decode(message):
                self._resolve(request_id, result)
            return
        match name:
            case "trajectory":
                if (request := self.outbox.get_sent(message.trajectory.request_id)) is not None:
                    request.iterates.append(message.trajectory)
            case "opened":
                self._bind_handle(message.opened)
            case "failures":
                self._take_failures(message.failures.failures)
            case "drain":
                self.outbox.draining = self._drained = True

    def _resolve(self, request_id: int, result: Piece) -> None:
        if isinstance(result, RecallSlice) and (sent := self.outbox.get_sent(request_id)) is not None:
            result = attach_trajectory(result, sent.iterates)
        self._had_results = True
        if (request := self.outbox.complete(request_id)) is not None:
            request.resolve(result)

    def _bind_handle(self, opened: pb.Opened) -> None:
        if (queue := self.outbox.bind_handle(opened)) is None:
            return
        if queue.model not in ("", opened.model):
            self._mark_other_model(queue, opened.model)
        queue.model = opened.model
        if not queue.route:
            self._routes.reset_hops(queue.memory)
        else:
            self._follow(queue.memory, queue.route)

    def _mark_other_model(self, queue: MemoryQueue, model: str) -> None:
        """Mark requests of a memory that has another model now, and fail those that were encoded by the old one.

        The server cannot see by which alphabet a text was encoded; whether other patterns fit, the server says.
        """
        for request in queue.pending:
            if (encoded_for := request.packed.model).name != queue.model:
                continue
            request.model_now = model
            if any(field.alphabet for field in encoded_for.fields):
                request.fail(_make_other_model_error(request))

    def _follow(self, memory: str, route: str) -> None:
        """Go straight to the owner, unless a request is under way here that must come first."""
        if not self.outbox.has_in_flight(memory):
            self._routes.redirect(self, memory, route)

    def _take_failures(self, failures: Iterable[pb.Failure]) -> None:
        repeats: dict[str, list[Request]] = {}
        for failure in failures:
            error = from_status(failure.status)
            if (queue := self.outbox.reject_open(failure.request_id)) is not None:
                self._fail_open(queue.memory, error)
            elif (request := self.outbox.remove_sent(failure.request_id)) is not None:
                self._fail_request(request, error, repeats)
        for memory, requests in repeats.items():
            self.outbox.delay(memory, requests, self._settings.retry)
            if route := next((one.failure.route for one in requests if one.failure is not None), ""):
                self._follow(memory, route)

    def _fail_open(self, memory: str, error: AttractorError) -> None:
        if isinstance(error, Unavailable):
            self.outbox.record_failure(error, memory)
            self.outbox.delay(memory, [], self._settings.retry)
            return
        pending = self.outbox.remove(memory)
        if isinstance(error, MemoryNotFound):
            self._routes.forget(memory)
        for request in pending:
            request.fail(error.copy())

    def _fail_request(self, request: Request, error: AttractorError, repeats: dict[str, list[Request]]) -> None:
        """Fail a request, or add it to those to be repeated."""
        if not request.alive:  # most often because it was cancelled from here
            return
        if error.reason in _UNBOUND:
            self.outbox.unbind(request.memory, request.handle)
        if isinstance(error, MemoryNotFound) and not request.resent_to_new_memory:
            # there may be another memory of that name than the one that the handle was of
            request.sequence, request.resent_to_new_memory = 0, True
            repeats.setdefault(request.memory, []).append(request)
            return
        if isinstance(error, Unavailable) or error.reason == "HANDLE_NOT_OPEN":
            repeats.setdefault(request.memory, []).append(request)
            request.failure = error
            return
        self._had_results = True
        unfit = request.model_now and isinstance(error, InvalidRequest | Refused)
        request.fail(_make_other_model_error(request) if unfit else error)


def _make_other_model_error(request: Request) -> MemoryNotFound:
    return MemoryNotFound(f"memory {request.memory!r} is now one of another model: {request.model_now}")
