"""Ray: placing shards, watching them, and telling them of each other. The only importer of ray."""
