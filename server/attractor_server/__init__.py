"""Attractor's server: memories that are energy networks, computed in batches, served over gRPC."""

import os

# Read when gRPC is imported. What it would print are errors that are raised as well, and, of each process that Ray
# starts, that nothing was done for a fork.
for _name, _value in {"GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0"}.items():
    os.environ.setdefault(_name, _value)
