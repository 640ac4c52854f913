"""A real shard in the test's own process and event loop, for commands to be pointed at."""

from tests.support.shards import client, models, shard, spec

__all__ = ["client", "models", "shard", "spec"]
