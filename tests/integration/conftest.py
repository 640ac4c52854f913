"""Real shards in the test's own process and event loop: everything but Ray."""

from tests.support.session_frames import gate
from tests.support.shards import channel, client, durable, models, on_disk, pair_of_shards, shard, spec

__all__ = ["channel", "client", "durable", "gate", "models", "on_disk", "pair_of_shards", "shard", "spec"]
