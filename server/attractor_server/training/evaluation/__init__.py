"""Quality tables of a model: its memory beside controls without one, and beside baselines at their best."""
