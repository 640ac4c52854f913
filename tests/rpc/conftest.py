"""Real shards in the test's own process and event loop."""

from tests.support.session_frames import gate
from tests.support.shards import channel, client, models, on_disk, pair_of_shards, shard, spec

__all__ = ["channel", "client", "gate", "models", "on_disk", "pair_of_shards", "shard", "spec"]
