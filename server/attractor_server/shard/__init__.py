"""The state of one shard, which its services share. Imports neither torch nor gRPC nor Ray."""
