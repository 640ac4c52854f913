"""The frame around every call: messages are counted before they are decoded, and server errors become statuses."""

import re
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter
from typing import Any, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from attractor_proto.v1 import memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2
from attractor_server.errors import InvalidRequest, ServerError, forget_frames
from attractor_server.identity.access import Access
from attractor_server.identity.audit import record_end
from attractor_server.recorder import OK, Recorder
from attractor_server.rpc.context import CallFacts, Context, get_access, read_trace
from attractor_server.rpc.errors import ForwardedError, fail
from attractor_server.rpc.gate import Gate
from attractor_server.rpc.long_lists import split_message
from attractor_server.rpc.rules import RULES
from attractor_server.rpc.weighing import FIELDS_LIMIT, PIECE_FIELDS_LIMIT, unreadable_error, weigh
from attractor_server.shard.budget import CALL_BYTES, Account, Budget

Request = TypeVar("Request")
Response = TypeVar("Response")
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_REQUESTS: dict[str, type[Message]] = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for file in (memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""By the name of the method, as it is called"""


class CallInterceptor(aio.ServerInterceptor):
    """Admits callers, counts what a call holds, and ends one whose servicer raised with the status of the error.

    Cancellation passes through. All calls are served as streams: so nothing of a message is read before there is room.
    """

    def __init__(self, budget: Budget, recorder: Recorder, gate: Gate) -> None:
        self._budget = budget
        self._recorder = recorder
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Request, Response] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """Wrap the handlers of this project's package; where they stream, they read and write by the context."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        kind = _REQUESTS.get(method)
        if handler is None or kind is None:
            return handler and self._gate.guard(handler, method)
        served = _Served(self._budget, self._recorder, self._gate, kind, handler, method)
        return grpc.stream_stream_rpc_method_handler(served.serve, None, handler.response_serializer)


class Incoming:
    """The context of a call whose messages come as bytes: each is counted, and only then decoded."""

    def __init__(self, context: Context, account: Account, kind: type[Message], *, patient: bool) -> None:
        self._context = context
        self._kind = kind
        self._patient = patient
        self._pieces: Iterator[bytes] = iter(())
        self.account = account
        self.facts = CallFacts()
        self.access: Access | None = None
        """Once it is admitted"""
        many = kind is memory_copies_pb2.ImportRequest
        self._fields_limit = PIECE_FIELDS_LIMIT if many else FIELDS_LIMIT

        self.abort = context.abort
        self.write = context.write
        self.time_remaining = context.time_remaining
        self.invocation_metadata = context.invocation_metadata
        self.peer = context.peer
        self.trailing_metadata = context.trailing_metadata
        self.set_trailing_metadata = context.set_trailing_metadata

    async def read(self) -> object:
        """Return the next message, or a piece of it, or EOF; the room of the one before it is given back.

        Raises:
            InvalidRequest: the bytes cannot be meant.
            MemoryShort: there is no room.
        """
        if (raw := next(self._pieces, None)) is None:
            self.account.give_message()
            whole = await self._context.read()
            if not isinstance(whole, bytes):
                return whole
            weight = weigh(whole, self._kind, fields_limit=self._fields_limit)
            await self.account.take_message(weight, patient=self._patient)
            self._pieces = split_message(whole, self._kind)
            raw = next(self._pieces, whole)
        try:
            return self._kind.FromString(raw)
        except DecodeError:
            raise unreadable_error(self._kind) from None


class _Served:
    """One method, its requests and answers as messages of a stream."""

    def __init__(  # noqa: PLR0913 - three of the shard's, three of the method's
        self,
        budget: Budget,
        recorder: Recorder,
        gate: Gate,
        kind: type[Message],
        handler: "grpc.RpcMethodHandler[Any, Any]",
        method: str,
    ) -> None:
        """Take the method's name; of sessions requests are recorded one by one."""
        self._budget = budget
        self._recorder = recorder
        self._gate = gate
        self._operation = None if kind is memory_data_pb2.SessionRequest else name_operation(method)
        self._kind = kind
        self._method = method
        self._rule = RULES.get(method)
        self._asks, self._answers = handler.request_streaming, handler.response_streaming
        asks, answers = ("stream" if streams else "unary" for streams in (self._asks, self._answers))
        self._behaviour: Behaviour = getattr(handler, f"{asks}_{answers}")

    async def serve(self, messages: object, context: Context) -> None:
        """Serve the call, and end it with the servicer's answer or its error."""
        started_s, reason = perf_counter(), "CANCELLED"
        with self._budget.open_account() as account:
            both = self._asks and self._answers  # a session: it is read as fast as there is room
            incoming = Incoming(context, account, self._kind, patient=both)
            try:
                access = await self._gate.admit(context, self._rule, self._method)
                incoming.access = access
                with record_end(access.audit):
                    await account.take(CALL_BYTES)
                    if self._operation is not None and (parent := read_trace(context)):
                        incoming.facts.trace = self._recorder.trace_request(parent, self._operation, "")
                    await self._answer(messages, context, incoming)
                reason = OK
            except (aio.AbortError, aio.InternalError):  # the latter: the client is gone
                raise
            except Exception as error:
                reason = _reason_of(error)
                fail(context, error)
                forget_frames(error)
            finally:
                facts = incoming.facts
                if facts.trace is not None:
                    facts.trace.end("" if reason == OK else reason)
                if self._operation is not None and not facts.passed_on:
                    took_s = perf_counter() - started_s
                    self._recorder.record_answers(self._operation, facts.model, "unary", reason, (took_s,))

    async def _answer(self, messages: object, context: Context, incoming: Incoming) -> None:
        request = messages
        if not self._asks:
            request = await incoming.read()
            if not isinstance(request, self._kind):
                name = self._kind.DESCRIPTOR.full_name
                raise InvalidRequest.of("message", f"saw the end of the call; expected one of {name}")
            access = get_access(cast(Context, incoming))
            if self._rule is not None and not (access.unrestricted and access.audit is None):
                self._rule.check(access, request, self._method)
        response = await self._behaviour(request, cast(Context, incoming))
        if not self._answers:
            await context.write(response)


def name_operation(method: str) -> str:
    """Return the name of a method, as it is called, for records: `store`, `memories.create`, `copies.take_snapshot`."""
    *_, service, name = re.split(r"[./]", method)
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return snake if service == "MemoryData" else f"{service.lower()}.{snake}"


def _reason_of(error: Exception) -> str:
    if isinstance(error, ForwardedError):
        return "FORWARDED"
    return error.reason if isinstance(error, ServerError) else ServerError.reason
