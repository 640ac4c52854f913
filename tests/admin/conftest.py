"""Real shards in the test's own process and event loop."""

from tests.support.shards import models, on_disk, spec

__all__ = ["models", "on_disk", "spec"]
