"""What the server remembers of memories beside their weights; no torch."""
