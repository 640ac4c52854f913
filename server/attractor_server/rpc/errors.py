"""Server errors as google.rpc.Status: one table, one place."""

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from attractor_proto.names import ERROR_DOMAIN
from attractor_server.errors import Exhausted, InvalidRequest, MovedAway, ServerError, quote
from attractor_server.rpc.context import Context

logger = logging.getLogger(__name__)

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

STATUS_KEY = "grpc-status-details-bin"


class ForwardedError(Exception):
    """The error of another shard, passed on as it came."""

    def __init__(self, code: grpc.StatusCode, message: str, trailing: Metadata) -> None:
        super().__init__(message)
        self.code, self.message, self.trailing = code, message, trailing


def encode_status(error: BaseException) -> status_pb2.Status:
    """Return the status that a client gets; an unforeseen error is logged, and the client gets no details of it."""
    if not isinstance(error, ServerError):
        error = log_unforeseen(error, "a call")
    if error.told != error.message:
        _log_once(error)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.told)
    known: Mapping[str, str] = {"route": error.route} if isinstance(error, MovedAway) else {}
    if isinstance(error, Exhausted):
        known = error.facts
    _attach(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=known))
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        _attach(status, error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, Exhausted):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(int(error.retry_s * 1e6))
        _attach(status, retry)
    return status


def to_server_error(error: Exception, what: str) -> ServerError:
    """Return a server error as it is; of any other, which is logged, the one that the client gets in its place."""
    return error if isinstance(error, ServerError) else log_unforeseen(error, what)


def log_unforeseen(error: BaseException, what: str) -> ServerError:
    """Log an unforeseen error in one line, and return the error that the client gets in its place."""
    places = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{place.name} ({Path(place.filename).name}:{place.lineno})" for place in reversed(places))
    logger.error("%s met an unforeseen error: %s: %s; in %s", what, type(error).__name__, quote(str(error)), where)
    return ServerError("internal error; the server's log says more")


def fail(context: Context, error: BaseException) -> None:
    """Set the status that the call ends with: the error's, with its details.

    gRPC's own `abort` raises: its error, kept with the call, leads to the frames that have the call. Such a cycle keeps
    the request until Python looks for cycles.
    """
    if isinstance(error, ForwardedError):
        code, message, trailing = error.code, error.message, error.trailing
    else:
        status = encode_status(error)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        message, trailing = status.message, ((STATUS_KEY, status.SerializeToString()),)
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *trailing))
    context.set_code(code)
    context.set_details(message)


def _log_once(error: ServerError) -> None:
    """Log the error's message once, though all requests of a batch may have failed with it."""
    if not error.logged:
        error.logged = True
        logger.warning("%s", error.message)


def _attach(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
