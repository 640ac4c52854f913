"""Slots, the topology of shards, and the owners of slots. Pure functions on numbers."""
