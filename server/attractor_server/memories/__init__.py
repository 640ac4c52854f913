"""Memories as every part of the server knows them: records, settings, outcomes, and the store's protocol."""
