"""The state of one shard, which its services share. Neither torch nor gRPC nor Ray."""
