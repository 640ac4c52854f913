"""Scripts that made the files in `data`; a developer runs them once, training never does."""
