"""Computing many memories in one batch: torch, and neither gRPC, Ray nor SQL."""
