"""Parts of messages, as servers send them."""

import numpy as np
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from attractor_proto.v1 import memory_data_pb2 as pb

_DTYPES = {pb.DTYPE_FLOAT32: "<f4", pb.DTYPE_FLOAT16: "<f2", pb.DTYPE_UINT8: "u1", pb.DTYPE_BFLOAT16: "<u2"}


def status(code: str, reason: str, violations: list[tuple[str, str]] | None = None) -> status_pb2.Status:
    """A status as servers send it."""
    message = status_pb2.Status(code=code_pb2.Code.Value(code), message=f"{reason} as the test wants it")
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest] = [
        error_details_pb2.ErrorInfo(reason=reason, domain="attractor")
    ]
    if violations:
        pairs = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in violations]
        details.append(error_details_pb2.BadRequest(field_violations=pairs))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        message.details.append(packed)
    return message


def as_float32(tensor: pb.Tensor) -> pb.Tensor:
    values = np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).astype("<f4")
    return pb.Tensor(field=tensor.field, dtype=pb.DTYPE_FLOAT32, shape=tensor.shape, data=values.tobytes())


def rows_of(tensor: pb.Tensor, start: int, stop: int) -> pb.Tensor:
    size = len(tensor.data) // tensor.shape[0]
    shape = (stop - start, *tensor.shape[1:])
    return pb.Tensor(field=tensor.field, dtype=tensor.dtype, shape=shape, data=tensor.data[start * size : stop * size])
