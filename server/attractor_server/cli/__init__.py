"""The command `attractor`."""
