"""Attractor's server: memories that are energy networks, computed in batches, served over gRPC."""
