"""Session streams to shards: requests are queued by memory, batched into frames, and repeated where that is safe."""
