"""Real shards in the test's own process and event loop."""

from tests.support.shards import channel, client, models, pair_of_shards, shard, spec

__all__ = ["channel", "client", "models", "pair_of_shards", "shard", "spec"]
