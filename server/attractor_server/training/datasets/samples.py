"""Samples of a data set, and the split of every data set."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attractor_server.errors import SettingsError
from attractor_server.training.datasets.glyphs import Split

DATA = Path(__file__).parent / "data"
"""Files of a checkout of the repository; packages leave them out"""


@dataclass(frozen=True)
class Samples:
    """Values (n, d) float32 in users' units, with the number of the class of each, ascending.

    Two samples of one class must not be in one memory: they are too alike to be told apart.
    """

    values: NDArray[np.float32]
    classes: NDArray[np.int64]


def load_arrays(name: str) -> Mapping[str, NDArray[Any]]:
    """Return all arrays of a file in `data/`.

    Raises:
        SettingsError: the file is not there, since this is no checkout.
    """
    path = DATA / name
    if not path.is_file():
        raise SettingsError(
            f"{name} is not part of the package; take a checkout of Attractor's repository, and there: "
            f"pip install -e . -e './server[train]' (looked for {path})"
        )
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def split_of(key: str) -> Split:
    """Return the split of a key: of 10 keys, 8 are for training, 1 for validation, 1 for tests."""
    tenth = hashlib.sha256(key.encode()).digest()[0] % 10
    return "test" if tenth == 0 else "validation" if tenth == 1 else "train"


def classes_of(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Assign numbers from 0 to keys (n) in their order; equal ones have to stand side by side."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
