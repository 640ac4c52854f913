"""A link to one shard: one stream at a time, opened anew when it is lost and there is something to send."""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import anyio

from attractor._concurrency import Background
from attractor._errors import (
    AttractorError,
    InvalidRequest,
    MemoryNotFound,
    Refused,
    ServerFault,
    Unavailable,
    from_status,
)
from attractor._results import recalled, recognized, with_iterates
from attractor._session.channel import Channel
from attractor._session.memory_queues import Lane
from attractor._session.outbox import Outbox
from attractor._session.request import Answer, Request
from attractor._session.stream import Session, open_session
from attractor._settings import Limits, Settings
from attractor._types import EraseResult, StoreResult
from attractor_proto.v1 import memory_data_pb2 as pb

_logger = logging.getLogger("attractor")
_FRUITLESS_LIMIT = 2
"""Sessions in a row without an answer, until another way is tried."""
_UNBOUND = ("MEMORY_NOT_FOUND", "HANDLE_NOT_OPEN", "OWNER_UNREACHABLE")


class Routes(Protocol):
    """What a link asks of the client's other links."""

    def met(self, shards: Sequence[str]) -> None:
        """These are shards of the server, each of which answers any client."""

    def redirect(self, link: "Link", memory: str, route: str) -> bool:
        """Moves a memory to the link of that address. False if it stays where it is."""

    def arrived(self, memory: str) -> None:
        """The link speaks to the memory's owner."""

    def forget(self, memory: str) -> None:
        """There is no such memory."""

    def fall_back(self, link: "Link", *, avoid: bool) -> bool:
        """Ends that link and moves everything on it to where it came from. False if there is no such place.

        Then what waits there may go by another link all the same, for as long as this one fails.
        """


class Link:
    """Sends what waits in its outbox and hands the answers to those who wait for them."""

    def __init__(self, channel: Channel, outbox: Outbox, routes: Routes, settings: Settings, timeout_s: float) -> None:
        """`timeout_s` bounds each attempt to open a session."""
        self.channel = channel
        self.outbox = outbox
        self.limits = Limits()
        self.failure: AttractorError | None = None
        """Why the last session ended, or could not be opened; None while one stands."""
        self.refusal: AttractorError | None = None
        """Why no session can be opened, however often it is tried."""
        self.tried = anyio.Event()
        """The first session stood, or there can be none."""
        self._routes = routes
        self._settings = settings
        self._timeout_s = timeout_s
        self._standing = False
        self._answered = False
        self._drained = False

    @property
    def stands(self) -> bool:
        """A session is open."""
        return self._standing and self.failure is None

    async def run(self, *, eager: bool) -> None:
        """Serves until cancelled, or until all has fallen back to another link.

        `eager` opens a session before there is anything to send.
        """
        fruitless = 0
        while True:
            while not self._needed(eager):
                await self.outbox.changed()
            await self._life()
            fruitless = 0 if self._answered or not self._needed(eager) else fruitless + 1
            if self._falls_back(fruitless):
                return
            if fruitless:
                await anyio.sleep(self._settings.retry.delay_s(fruitless))

    def _needed(self, eager: bool) -> bool:
        return self.outbox.waiting or (eager and not self.tried.is_set())

    def _falls_back(self, fruitless: int) -> bool:
        """Whether another link takes over, because this one fails, drains, or is no longer used."""
        failing = self._drained or not self._standing or fruitless > _FRUITLESS_LIMIT
        if (failing or not self.outbox.waiting) and self._routes.fall_back(self, avoid=failing):
            return True
        if self.failure is not None and not self._standing and not isinstance(self.failure, Unavailable):
            self.refusal = self.failure
            self.outbox.fail(self.failure)
            self.tried.set()
        return False

    async def _life(self) -> None:
        """One session, from opening to its end."""
        self._answered = self._standing = self._drained = False
        try:
            async with open_session(self.channel, self._settings.client_id, self._timeout_s) as session:
                self._welcomed(session)
                async with Background() as tasks:
                    tasks.start_soon(self._send, session)
                    await self._receive(session)
            self._ended(Unavailable("the server ended the session"))
        except AttractorError as error:
            self._ended(error)
        except Exception as error:  # a fault of this code must not leave callers waiting
            _logger.exception("unforeseen error in the session with %s", self.channel.address)
            self._ended(ServerFault(f"unforeseen {type(error).__name__}: {error}"))

    def _welcomed(self, session: Session) -> None:
        self.limits, self._standing, self.failure = session.limits, True, None
        self._routes.met(session.shards)
        self.tried.set()

    def _ended(self, error: AttractorError) -> None:
        """Keeps for the next session what may be repeated, and fails the rest."""
        self.failure = error
        unanswered = self.outbox.lost()
        if isinstance(error, Unavailable):
            self.outbox.put_back(unanswered)
            self.outbox.note(error)
        else:
            for request in unanswered:
                request.fail(error.again())

    async def _send(self, session: Session) -> None:
        while True:
            while (message := self.outbox.next(session.limits, anyio.current_time())) is not None:
                if not await session.write(message):
                    return
            await self.outbox.changed()

    async def _receive(self, session: Session) -> None:
        """Until the server ends the stream, or wants the client gone and has answered everything."""
        while not (self.outbox.draining and not self.outbox.unanswered):
            if (message := await session.read()) is None:
                return
            self._take(message)

    def _take(self, message: pb.SessionResponse) -> None:
        match message.WhichOneof("frame"):
            case "stored":
                self._written(message.stored, StoreResult)
            case "erased":
                self._written(message.erased, EraseResult)
            case "recalled":
                self._recalled(message.recalled)
            case "recognized":
                for request_id, answer in recognized(message.recognized):
                    self._resolve(request_id, answer)
            case "trajectory":
                if (request := self.outbox.sent(message.trajectory.request_id)) is not None:
                    request.iterates.append(message.trajectory)
            case "opened":
                self._opened(message.opened)
            case "failures":
                self._failures(message.failures.failures)
            case "drain":
                self.outbox.draining = self._drained = True

    def _written(self, frame: pb.StoredFrame | pb.ErasedFrame, result: type[StoreResult] | type[EraseResult]) -> None:
        if not len(frame.request_ids) == len(frame.versions) == len(frame.totals):
            raise ServerFault("stored or erased: the columns differ in length")
        for request_id, version, total in zip(frame.request_ids, frame.versions, frame.totals, strict=True):
            self._resolve(request_id, result(version, total))

    def _recalled(self, frame: pb.RecalledFrame) -> None:
        for request_id, answer in recalled(frame):
            request = self.outbox.sent(request_id)
            if request is not None and request.iterates:
                answer = with_iterates(answer, request.iterates)
            self._resolve(request_id, answer)

    def _resolve(self, request_id: int, answer: Answer) -> None:
        self._answered = True
        if (request := self.outbox.succeeded(request_id)) is not None:
            request.resolve(answer)

    def _opened(self, answer: pb.Opened) -> None:
        if (lane := self.outbox.opened(answer)) is None:
            return
        if lane.model not in ("", answer.model):
            self._made_anew(lane, answer.model)
        lane.model = answer.model
        if not lane.route:
            self._routes.arrived(lane.memory)
        else:
            self._follow(lane.memory, lane.route)

    def _made_anew(self, lane: Lane, model: str) -> None:
        """Notes what waits for a memory of another model than the one of that name now, and fails texts.

        They were encoded by its alphabet, which the server cannot see; whether other patterns fit, the server says.
        """
        for request in lane.pending:
            if (was := request.packed.model).name != lane.model:
                continue
            request.model_now = model
            if any(field.alphabet for field in was.fields):
                request.fail(_of_another_model(request))

    def _follow(self, memory: str, route: str) -> None:
        """Goes straight to the owner, unless something is under way here that must come first."""
        if not self.outbox.under_way(memory):
            self._routes.redirect(self, memory, route)

    def _failures(self, failures: Iterable[pb.Failure]) -> None:
        again: dict[str, list[Request]] = {}
        for failure in failures:
            error = from_status(failure.status)
            if (lane := self.outbox.refused(failure.request_id)) is not None:
                self._not_opened(lane.memory, error)
            elif (request := self.outbox.answered(failure.request_id)) is not None:
                self._failed(request, error, again)
        for memory, requests in again.items():
            self.outbox.hold(memory, requests, self._settings.retry)
            if route := next((one.failure.route for one in requests if one.failure is not None), ""):
                self._follow(memory, route)

    def _not_opened(self, memory: str, error: AttractorError) -> None:
        if isinstance(error, Unavailable):
            self.outbox.note(error, memory)
            self.outbox.hold(memory, [], self._settings.retry)
            return
        pending = self.outbox.remove(memory)
        if isinstance(error, MemoryNotFound):
            self._routes.forget(memory)
        for request in pending:
            request.fail(error.again())

    def _failed(self, request: Request, error: AttractorError, again: dict[str, list[Request]]) -> None:
        if not request.alive:  # most often because it was cancelled from here
            return
        if error.reason in _UNBOUND:
            self.outbox.unbind(request.memory, request.handle)
        if isinstance(error, MemoryNotFound) and not request.anew:  # there may be another one than the handle was of
            request.sequence, request.anew = 0, True
            again.setdefault(request.memory, []).append(request)
            return
        if isinstance(error, Unavailable) or error.reason == "HANDLE_NOT_OPEN":
            again.setdefault(request.memory, []).append(request)
            request.failure = error
            return
        self._answered = True
        unfit = request.model_now and isinstance(error, InvalidRequest | Refused)
        request.fail(_of_another_model(request) if unfit else error)


def _of_another_model(request: Request) -> MemoryNotFound:
    return MemoryNotFound(f"memory {request.memory!r} is now one of another model: {request.model_now}")
