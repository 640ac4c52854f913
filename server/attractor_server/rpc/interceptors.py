"""Around every call: server errors become statuses, whatever the servicer."""

from collections.abc import Awaitable, Callable

import grpc
from grpc import aio

from attractor_server.rpc.errors import abort

Behaviour = Callable[[object, "aio.ServicerContext[object, object]"], Awaitable[object]]


class ErrorInterceptor(aio.ServerInterceptor):
    """Ends a call whose servicer raised with the status of the error. Cancellation passes through."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[object, object]"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[object, object]":
        """Wraps the handlers of this project's package."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/attractor."):
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guarded(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(
            _guarded(handler.stream_stream), handler.request_deserializer, handler.response_serializer
        )


def _guarded(behaviour: Behaviour) -> Behaviour:
    async def guarded(request: object, context: "aio.ServicerContext[object, object]") -> object:
        try:
            return await behaviour(request, context)
        except aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return guarded
