"""The service contract: servicers, codec, errors and forwarding. Imports neither torch nor Ray."""
