"""Ray: placing shards, watching them, and telling them of each other. The only importer of ray."""

import os

# Ray reads these while it is imported, so they are set before anything here imports it.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a shard without a GPU must not hide those of others
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # none of Ray's own lines in our terminal; its folder has them
    "RAY_worker_niceness": "0",  # shards serve: by default whatever else the machine does goes before them
}.items():
    os.environ.setdefault(_name, _value)
