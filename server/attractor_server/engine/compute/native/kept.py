"""Bind the native library's comparison of cues with kept patterns."""

import ctypes
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attractor_server.energy.posterior import REACH, Area
from attractor_server.engine.compute.native.interface import fill, structures
from attractor_server.engine.compute.native.library import library
from attractor_server.engine.pages.kept_views import KeptView
from attractor_server.memories.outcomes import Floats, Integers


@dataclass(frozen=True, eq=False)
class HostPairs:
    """See `Pairs`: of views on a CPU, which the library reads where they lie."""

    views: list[KeptView]
    view: Integers
    row: Integers
    counts: Integers

    def compare(self, cues: Floats, given: Floats | None, readings: Floats, weights: Floats) -> Floats:
        """See `Pairs`."""
        scores = np.empty(int(self.counts.sum()), np.float32)
        self._call("compare_kept", cues.shape[1], cues, given, readings, weights, scores)
        return scores

    def point(self, ways: Floats, scores: Floats) -> None:
        """See `Pairs`."""
        self._call("point_kept", ways.shape[1], ways, scores)

    def move(self, cues: Floats, given: Floats | None, area: Area, limits: Floats) -> Floats:
        """See `Pairs`."""
        squares = np.empty(int(self.counts.sum()), np.float32)
        self._call("move_kept", cues.shape[1], _fill_area(area), cues, given, limits, squares)
        return squares

    def cover(self, cues: Floats, given: Floats | None, area: Area, variation: Floats, limits: Floats) -> Floats:
        """See `Pairs`."""
        squares = np.empty(int(self.counts.sum()), np.float32)
        channels = (area.span.stop - area.span.start) // (area.height * area.width)
        scratch = np.empty((area.height + 1 + channels) * area.width + area.height, np.float32)
        image = _fill_area(area)
        self._call("cover_kept", cues.shape[1], image, cues, given, variation, limits, scratch, squares)
        return squares

    def mix(self, shares: Floats, means: Floats, *, least: float) -> None:
        """See `Pairs`."""
        self._call("mix_kept", means.shape[1], shares, least, means)

    def measure(self, shares: Floats, points: Floats, units: Floats, *, least: float) -> Floats:
        """See `Pairs`."""
        squares = np.empty_like(shares)
        self._call("measure_kept", points.shape[1], shares, least, points, units, squares)
        return squares

    @cached_property
    def _structures(self) -> "ctypes.Array[ctypes.Structure]":
        structure = structures()["kept_page"]
        filled: ctypes.Array[ctypes.Structure] = (structure * len(self.views))()
        addresses = np.array([one.address for one in self.views], np.int64)
        ctypes.memmove(filled, addresses.ctypes.data, ctypes.sizeof(filled))
        return filled

    def _call(self, name: str, size: int, *given: Floats | float | ctypes.Structure | None) -> None:
        """Call the function; arrays are C-contiguous, and live until it returns."""
        native = library()
        assert native is not None
        assert all(not isinstance(one, np.ndarray) or one.flags.c_contiguous for one in given)
        addresses = [_address(one) for one in given]
        pairs = self._structures, len(self.view), self.view.ctypes.data, self.row.ctypes.data
        getattr(native, name)(*pairs, size, *addresses)


def _fill_area(area: Area) -> ctypes.Structure:
    channels = (area.span.stop - area.span.start) // (area.height * area.width)
    return fill("area", first=area.span.start, height=area.height, width=area.width, channels=channels, reach=REACH)


def _address(one: Floats | float | ctypes.Structure | None) -> object:
    if isinstance(one, np.ndarray):
        return one.ctypes.data
    return ctypes.byref(one) if isinstance(one, ctypes.Structure) else one
