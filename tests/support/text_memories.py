"""A server of the models that ship, in a thread, and an encoder for memories of texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from anyio.from_thread import BlockingPortal
from tests.support.shards import serving

from attractor_agents import MiniLM
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

FACTS = (
    "Ada flies to Oslo on Tuesday",
    "The key is under the mat",
    "Bob is allergic to peanuts",
    "The printer on the third floor is broken",
    "Grace likes her coffee without sugar",
)
ABOUT_ADA = "When does Ada fly to Oslo?"


@cache
def shared_encoder() -> MiniLM:
    """One for all tests of a process: its files are read once."""
    return MiniLM()


@contextmanager
def text_server(portal: BlockingPortal, folder: Path) -> Iterator[str]:
    """Address of a server that keeps memories in a folder."""
    spec = ShardSpec(bank_bytes=1 << 24, warm_up=False, store_uri=uri_of(folder))
    with portal.wrap_async_context_manager(serving(spec)) as (shard,):
        yield shard.info.address
