"""Data sets that need no download."""

import torch

from attractor_server.errors import SettingsError
from attractor_server.training.datasets.glyphs import Split, glyphs
from attractor_server.training.episodes import Dataset


def load_dataset(name: str, split: Split) -> Dataset:
    """Patterns of a split in network units, from -1 (dark) to 1 (bright).

    Raises:
        SettingsError: there is no such data set.
    """
    if name != "glyphs":
        raise SettingsError(f"episodes.dataset: saw {name!r}; expected 'glyphs'")
    data = glyphs(split)
    patterns = torch.from_numpy(data.images).flatten(1).float() / 127.5 - 1
    return Dataset(patterns, torch.from_numpy(data.characters))
