"""Meta-training: data sets, episodes, the trainer, evaluation and baselines; torch, and never gRPC or Ray."""
