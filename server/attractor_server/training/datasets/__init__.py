"""Data sets that need no download."""

from attractor_server.training.datasets.alike import Alike
from attractor_server.training.datasets.registry import DATASETS, IMAGE, load_dataset
from attractor_server.training.datasets.source import Dataset, Source
from attractor_server.training.datasets.warped import Warped

__all__ = ["DATASETS", "IMAGE", "Alike", "Dataset", "Source", "Warped", "load_dataset"]
