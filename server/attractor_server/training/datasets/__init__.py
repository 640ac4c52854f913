"""Data sets that need no download."""

from attractor_server.training.datasets.registry import DATASETS, IMAGE, load_dataset
from attractor_server.training.datasets.source import Dataset, Source

__all__ = ["DATASETS", "IMAGE", "Dataset", "Source", "load_dataset"]
