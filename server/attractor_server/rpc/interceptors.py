"""The frame around every call: messages are counted before they are decoded, and server errors become statuses."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from attractor_proto.v1 import memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2
from attractor_server.errors import InvalidRequest, forget_frames
from attractor_server.rpc.context import Context
from attractor_server.rpc.errors import fail
from attractor_server.rpc.long_lists import split_message
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
    """Counts what a call holds, and ends one whose servicer raised with the status of the error.

    Cancellation passes through. All calls are served as streams: so nothing of a message is read before there is room.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Request, Response] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """Wrap the handlers of this project's package; where they stream, they read and write by the context."""
        handler = await continuation(handler_call_details)
        kind = _REQUESTS.get(handler_call_details.method)
        if handler is None or kind is None:
            return handler
        served = _Served(self._budget, kind, handler)
        return grpc.stream_stream_rpc_method_handler(served.serve, None, handler.response_serializer)


class Incoming:
    """The context of a call whose messages come as bytes: each is counted, and only then decoded."""

    def __init__(self, context: Context, account: Account, kind: type[Message], *, patient: bool) -> None:
        self._context = context
        self._kind = kind
        self._patient = patient
        self._pieces: Iterator[bytes] = iter(())
        self.account = account
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

    def __init__(self, budget: Budget, kind: type[Message], handler: "grpc.RpcMethodHandler[Any, Any]") -> None:
        self._budget = budget
        self._kind = kind
        self._asks, self._answers = handler.request_streaming, handler.response_streaming
        asks, answers = ("stream" if streams else "unary" for streams in (self._asks, self._answers))
        self._behaviour: Behaviour = getattr(handler, f"{asks}_{answers}")

    async def serve(self, messages: object, context: Context) -> None:
        """Serve the call, and end it with the servicer's answer or its error."""
        with self._budget.open_account() as account:
            try:
                await account.take(CALL_BYTES)
                await self._answer(messages, context, account)
            except (aio.AbortError, aio.InternalError):  # the latter: the client is gone
                raise
            except Exception as error:
                fail(context, error)
                forget_frames(error)

    async def _answer(self, messages: object, context: Context, account: Account) -> None:
        both = self._asks and self._answers  # a session: it is read as fast as there is room
        incoming = Incoming(context, account, self._kind, patient=both)
        request = messages
        if not self._asks:
            request = await incoming.read()
            if not isinstance(request, self._kind):
                name = self._kind.DESCRIPTOR.full_name
                raise InvalidRequest.of("message", f"saw the end of the call; expected one of {name}")
        response = await self._behaviour(request, cast(Context, incoming))
        if not self._answers:
            await context.write(response)
