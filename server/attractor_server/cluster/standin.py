"""The stand-in: a shard in the process of the command, which serves everything until Ray and the shards in it run.

Ray takes seconds to start, what a shard needs of its own a fraction of that. Nothing here needs Ray.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from anyio.from_thread import BlockingPortal, start_blocking_portal

from attractor_server.app import RunningShard, run_shard
from attractor_server.errors import BankBroken, Unavailable
from attractor_server.shard.event_loop import loop_options
from attractor_server.shard.spec import ShardSpec, store_address
from attractor_server.sharding.slots import GROUPS
from attractor_server.sharding.topology import Topology
from attractor_server.storage.backends.opening import open_store
from attractor_server.storage.claims import end_owners

logger = logging.getLogger(__name__)

DRAIN_S = 5.0

EPOCH = 0
"""The supervisor counts from one"""


class StandIn:
    """A shard that owns all memories, and leaves when others are there to take them."""

    def __init__(self, shard: RunningShard, portal: BlockingPortal, stack: ExitStack) -> None:
        self._shard = shard
        self._portal = portal
        self._stack = stack

    @property
    def address(self) -> str:
        """Where clients reach it, and shard 0 after it."""
        return self._shard.info.address

    @property
    def port(self) -> int:
        """The port of its address."""
        return int(self.address.rpartition(":")[2])

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that it serves."""
        return tuple(self._shard.models)

    def leave(self) -> None:
        """Finish what it accepted, close its port, and let others have what it owned."""
        if not self._portal.call(self._shard.drain, DRAIN_S):
            logger.warning("some requests were cut off after %g s; clients repeat them", DRAIN_S)
        try:
            self._stack.close()
        except* BankBroken:
            logger.warning("the stand-in had ended before; shards go on from what is kept")


@contextmanager
def run_stand_in(spec: ShardSpec) -> Iterator[StandIn]:
    """Run a stand-in for the shards of that spec, until it has left or the block ends. No other server has their store.

    Raises:
        SettingsError: the spec cannot be meant on this machine.
        ModelFileError: a model file is damaged, or of a newer format.
        StoreFailed: the store cannot be used.
        StoreDamaged: it is of a newer format, or damaged.
    """
    started_s = time.monotonic()
    _end_leftovers(spec)
    own = replace(spec, warm_up=False)  # a model's first request waits for its own programs, and for no other's
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio", dict(loop_options()), name="stand-in"))
        shard = stack.enter_context(portal.wrap_async_context_manager(run_shard(own, resize=_resize)))
        portal.call(_serve, shard)
        logger.info("the stand-in serves after %.2f s", time.monotonic() - started_s)
        serving = stack.pop_all()
    with closing(serving):  # an error of the block is not the shard's, which would make a group of it
        yield StandIn(shard, portal, serving)


async def _serve(shard: RunningShard) -> None:
    await shard.learn(Topology(EPOCH, (shard.info,)), seize=range(GROUPS))


async def _resize(shards: int) -> None:
    raise Unavailable(f"shards are starting; ask for {shards} of them in a moment")


def _end_leftovers(spec: ShardSpec) -> None:
    """End the shards of a command that was killed: they end a moment later than it, and hold ports and leases."""
    with closing(open_store(store_address(spec))) as store:
        end_owners(store)
