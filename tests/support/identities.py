"""Files of identities, and calls with their tokens."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from attractor_proto.v1 import memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2
from attractor_server.identity.grants import parse_grants
from attractor_server.identity.identity_file import format_token
from attractor_server.identity.tokens import draw_token, hash_token

Metadata = tuple[tuple[str, str], ...]

ROOT: Mapping[str, list[str]] = {"root": ["*:admin"]}


async def write_identities(path: Path, grants: Mapping[str, list[str]], *, more: str = "") -> dict[str, str]:
    """Write the file, and return a new token for each name."""
    tokens = {name: draw_token() for name in grants}
    await put_identities(path, grants, tokens, more=more)
    return tokens


async def put_identities(
    path: Path, grants: Mapping[str, list[str]], tokens: Mapping[str, str], *, more: str = ""
) -> None:
    """Write the file with those tokens, at once."""
    entries = [
        format_token(name, hash_token(tokens[name]), parse_grants(texts, where="grants"), None)
        for name, texts in grants.items()
    ]
    await put_text(path, "\n".join([*entries, more]))


async def put_text(path: Path, text: str) -> None:
    """Write a file at once, off the event loop."""
    draft = anyio.Path(path.with_suffix(".draft"))
    await draft.write_text(text)
    await draft.chmod(0o600)
    await draft.replace(path)


def bearer(token: str) -> Metadata:
    """Metadata with a token."""
    return (("authorization", f"Bearer {token}"),)


def each_method() -> Iterator[tuple[str, MethodDescriptor]]:
    """Every method that a shard serves, by its full name."""
    for file in (memories_pb2, memory_copies_pb2, memory_data_pb2, memory_items_pb2, health_pb2, reflection_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method
