"""Slots, the topology of shards, and which shard owns which slot. Pure functions on numbers."""
