"""Glyph images: letters and digits of many scripts, rendered from the fonts that matplotlib ships.

They are split by character, so that no training glyph shows a test glyph's character: accented forms go with their
base character, and characters that look alike (Latin, Greek and Cyrillic A) go together.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Split: TypeAlias = Literal["train", "validation", "test"]
Image: TypeAlias = NDArray[np.uint8]

SIDE = 28
_MARGIN = 2
_SIZE = 22
_LEAST_SIDE = 12
_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lo", "Nd"})
_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)


@dataclass(frozen=True)
class Glyphs:
    """Images (n, 28, 28), bright on dark, with the number of the character of each."""

    images: Image
    characters: NDArray[np.int64]


@cache
def glyphs(split: Split) -> Glyphs:
    """Return all glyphs of a split, in an order that is always the same; no image twice."""
    chosen = [family for root, family in sorted(_families().items()) if _split_of(root) == split]
    images = [image for family in chosen for image in family]
    characters = [number for number, family in enumerate(chosen) for _ in family]
    return Glyphs(np.stack(images), np.array(characters))


def _split_of(root: str) -> Split:
    """Return the split of a character: of 10, 8 are for training, 1 for validation, 1 for tests."""
    tenth = hashlib.sha256(root.encode()).digest()[0] % 10
    return "test" if tenth == 0 else "validation" if tenth == 1 else "train"


@cache
def _families() -> Mapping[str, Sequence[Image]]:
    """Return different images by the character that they go with."""
    roots = _Roots()
    owner: dict[bytes, str] = {}
    images: dict[bytes, Image] = {}
    for character, image in _render_all():
        key = image.tobytes()
        roots.join(character, _base(character))
        roots.join(character, owner.setdefault(key, character))
        images.setdefault(key, image)
    families: dict[str, list[Image]] = defaultdict(list)
    for key, image in images.items():
        families[roots.find(owner[key])].append(image)
    return families


class _Roots:
    """Disjoint sets of characters, each named by its least."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, character: str) -> str:
        while (parent := self._parents.get(character, character)) != character:
            character = parent
        return character

    def join(self, one: str, other: str) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self._parents[high] = low


def _base(character: str) -> str:
    return unicodedata.normalize("NFKD", character)[0]


def _render_all() -> Iterator[tuple[str, Image]]:
    import matplotlib as mpl
    from fontTools.ttLib import TTFont
    from PIL import ImageFont

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    for name in _FONTS:
        path = folder / f"{name}.ttf"
        with TTFont(path, lazy=True) as font:
            characters = [chr(code) for code in sorted(font.getBestCmap())]
        face = ImageFont.truetype(str(path), _SIZE, layout_engine=ImageFont.Layout.BASIC)
        for character in characters:
            if unicodedata.category(character) in _CATEGORIES and (image := _render(face, character)) is not None:
                yield character, image


def _render(face: "FreeTypeFont", character: str) -> Image | None:
    """Return the ink of a character in the middle of the image; None where it is but a mark, or more than fits."""
    mask = face.getmask(character, mode="L")
    width, height = mask.size
    room = SIDE - 2 * _MARGIN
    if not _LEAST_SIDE <= max(width, height) <= room:
        return None
    image = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    image[top : top + height, left : left + width] = np.array(mask, np.uint8).reshape(height, width)
    return image if image.any() else None
