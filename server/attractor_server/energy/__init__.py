"""The science: energy networks, the writing and the reading loop, models in files; torch and nothing else."""
