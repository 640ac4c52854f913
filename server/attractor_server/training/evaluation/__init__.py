"""The honest quality table of a model: its memory beside what does without it, and beside rivals at their best."""
