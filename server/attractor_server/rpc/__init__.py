"""The contract served: servicers, codec, errors and forwarding; neither torch nor Ray."""
