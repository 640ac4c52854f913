"""Databases that the backend store can be in."""
