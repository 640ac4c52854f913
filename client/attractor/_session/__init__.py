"""Sessions with shards: requests wait by memory, travel in frames, and are repeated where that is safe."""
