"""Real shards in the test's own process and event loop."""

from tests.support.shards import channel, client, durable, models, on_disk, shard, spec

__all__ = ["channel", "client", "durable", "models", "on_disk", "shard", "spec"]
