"""Around every call: server errors become statuses, whatever the servicer."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc import aio

from attractor_server.errors import quoted
from attractor_server.rpc.context import Context, Unread, decoded
from attractor_server.rpc.errors import abort

Request = TypeVar("Request")
Response = TypeVar("Response")
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


class ErrorInterceptor(aio.ServerInterceptor):
    """Ends a call whose servicer raised with the status of the error. Cancellation passes through."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Request, Response] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """Wraps the handlers of this project's package; where they stream, they read and write by the context."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/attractor."):
            return handler
        asks, answers = (
            "stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming)
        )
        kind = f"{asks}_{answers}"
        make: Callable[..., grpc.RpcMethodHandler[Request, Response]] = getattr(grpc, f"{kind}_rpc_method_handler")
        reading = _reading(handler.request_deserializer)
        return make(_guarded(getattr(handler, kind)), reading, handler.response_serializer)


def _guarded(behaviour: Behaviour) -> Behaviour:
    async def guarded(request: object, context: Context) -> object:
        try:
            return await behaviour(decoded(request), context)
        except (aio.AbortError, aio.InternalError):  # the latter: the client is gone
            raise
        except Exception as error:
            await abort(context, error)

    return guarded


def _reading(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """The same, but what it cannot read is handed on as such: gRPC would answer UNKNOWN, and log a traceback."""
    if deserialize is None:
        return None

    def read(content: bytes) -> object:
        try:
            return deserialize(content)
        except Exception as error:
            return Unread(quoted(str(error)))

    return read
