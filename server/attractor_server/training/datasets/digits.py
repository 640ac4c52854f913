"""Handwritten digits of 43 people, which scikit-learn ships (UCI, Alpaydin and Kaynak 1998), small and enlarged.

They are split by image, and each image is a class of its own.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.samples import Samples, split_of

SIDE, LARGE_SIDE = 8, 28


@cache
def digits(split: Split) -> Samples:
    """Return images (n, 64) of 8 × 8 pixels, from 0 (paper) to 1 (ink)."""
    images = _load_images()[_choose(split)] / np.float32(16)
    return Samples(images.reshape(len(images), -1), np.arange(len(images)))


@cache
def large_digits(split: Split) -> Samples:
    """Return the images of `digits` (n, 784), enlarged to 28 × 28 pixels by linear interpolation."""
    from scipy.ndimage import zoom

    images = digits(split).values.reshape(-1, SIDE, SIDE)
    enlarged: NDArray[np.float32] = zoom(images, (1, LARGE_SIDE / SIDE, LARGE_SIDE / SIDE), order=1)
    return Samples(enlarged.reshape(len(images), -1), np.arange(len(images)))


@cache
def _load_images() -> NDArray[np.float32]:
    """Return all images (n, 8, 8) from 0 to 16, none twice."""
    from sklearn.datasets import load_digits

    different = {image.tobytes(): image for image in load_digits().images.astype(np.float32)}
    return np.stack(list(different.values()))


@cache
def _choose(split: Split) -> NDArray[np.int64]:
    return np.array([n for n in range(len(_load_images())) if split_of(f"digit {n}") == split])
