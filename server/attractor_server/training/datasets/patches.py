"""Colour patches of photographs that scikit-learn, scikit-image and matplotlib ship, of 32 × 32 pixels.

They are cut at full, half and a quarter of the size. Three whole photographs are for tests; of each of the others,
about one square of 128 × 128 pixels in ten is for validation, at every size. Patches that overlap at full or half
size are of one class; one at a quarter of the size has a class of its own. Nearly flat patches are left out.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attractor_server.training.datasets.glyphs import Split
from attractor_server.training.datasets.samples import Samples, classes_of, split_of

SHAPE = (32, 32, 3)
_SIDE = 32
_SQUARE = 128
_LEAST_DEVIATION = 0.04
_TRAINED = (
    *("sklearn/china.jpg", "sklearn/flower.jpg", "matplotlib/grace_hopper.jpg"),
    *("skimage/astronaut.png", "skimage/motorcycle_left.png", "skimage/retina.jpg", "skimage/ihc.png"),
    "skimage/hubble_deep_field.jpg",
)
_TESTED = ("skimage/coffee.png", "skimage/chelsea.png", "skimage/rocket.jpg")


@cache
def patches(split: Split) -> Samples:
    """Return patches (n, 3072), from 0 (dark) to 1 (bright), in the order (row, column, red or green or blue)."""
    found = list(_find_patches(split))
    return Samples(np.stack([patch.ravel() for _, patch in found]), classes_of([cell for cell, _ in found]))


def _find_patches(split: Split) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield each patch with the name of its class, class by class."""
    for name in _TESTED if split == "test" else _TRAINED:
        photograph = _read(name)
        for top, left in np.ndindex(*(side // _SQUARE for side in photograph.shape[:2])):
            square = f"{name} {top} {left}"
            held_out = split_of(square) == "validation"
            if split == "test" or held_out == (split == "validation"):
                rows, columns = (slice(edge * _SQUARE, (edge + 1) * _SQUARE) for edge in (top, left))
                yield from ((cell, patch) for cell, patch in _cut(square, photograph[rows, columns]) if _is_rich(patch))


def _cut(square: str, pixels: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the patches of a square (128, 128, 3): of each quarter nine, and all of it at half size; then the whole."""
    half = _SQUARE // 2
    for top, left in np.ndindex(2, 2):
        quarter = pixels[top * half : (top + 1) * half, left * half : (left + 1) * half]
        for down, right in np.ndindex(3, 3):
            row, column = down * _SIDE // 2, right * _SIDE // 2
            yield f"{square} {top} {left}", quarter[row : row + _SIDE, column : column + _SIDE]
        yield f"{square} {top} {left}", _shrink(quarter, 2)
    yield square, _shrink(pixels, 4)


def _shrink(pixels: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return means over squares of factor × factor pixels."""
    rows, columns, colours = pixels.shape
    means: NDArray[np.float32] = pixels.reshape(rows // factor, factor, columns // factor, factor, colours).mean((1, 3))
    return means


def _is_rich(patch: NDArray[np.float32]) -> bool:
    return bool(patch.std(axis=(0, 1)).mean() > _LEAST_DEVIATION)


def _read(name: str) -> NDArray[np.float32]:
    """Return a photograph (rows, columns, 3) from 0 to 1."""
    from PIL import Image

    package, _, file = name.partition("/")
    with Image.open(_folder(package) / file) as image:
        pixels: NDArray[np.float32] = np.asarray(image.convert("RGB")).astype(np.float32) / np.float32(255)
    return pixels


def _folder(package: str) -> Path:
    inside = {"sklearn": "datasets/images", "skimage": "data", "matplotlib": "mpl-data/sample_data"}[package]
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / inside
