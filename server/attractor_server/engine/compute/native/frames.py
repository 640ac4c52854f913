"""Bind the native library's way through frames: of pages where they lie in a bank, or one behind the other."""

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attractor_server.energy.frame import Frames, fill_gaps
from attractor_server.engine.compute.native.interface import fill
from attractor_server.engine.compute.native.library import library

ENCODE, DECODE, PULL_BACK = 0, 2, 3
"""Ways, as frames.h has them"""


@dataclass(frozen=True, eq=False)
class HostFrames:
    """See `energy.frame.Framing`: float32 on a CPU; u are contiguous or become so."""

    frames: Frames
    """Each tensor (places, *shape), contiguous"""
    places: Tensor | None = None
    """(pages,) int64: where each page is; None where they are in their order"""

    def encode(self, u: Tensor) -> Tensor:
        """See `Framing`."""
        return self._go(ENCODE, u, torch.empty_like(u) if self._covers(u) else fill_gaps(u))

    def decode(self, x: Tensor) -> Tensor:
        """See `Framing`."""
        return self._go(DECODE, x, torch.empty_like(x) if self._covers(x) else x.clone())

    def pull_back(self, slope: Tensor) -> Tensor:
        """See `Framing`."""
        return self._go(PULL_BACK, slope, torch.empty_like(slope) if self._covers(slope) else slope.clone())

    @property
    def count(self) -> int:
        """Number of fields that have frames."""
        return len(self.frames.parts)

    @cached_property
    def structures(self) -> "ctypes.Array[ctypes.Structure]":
        """Structures of the fields, as the library takes them; they hold addresses of the tensors."""
        filled = [
            fill(
                "frame",
                first=span.start,
                size=frame.mean.shape[-1],
                rank=frame.axes.shape[-2],
                **{name: getattr(frame, name).data_ptr() for name in ("axes", "mean", "forth", "back", "scale")},
            )
            for span, frame in self.frames.parts
        ]
        return (type(filled[0]) * len(filled))(*filled)

    @property
    def addresses(self) -> dict[str, int]:
        """Fields of the structure of a loop."""
        return {"framed": self.count, "frames": ctypes.addressof(self.structures)}

    def _covers(self, u: Tensor) -> bool:
        return sum(frame.mean.shape[-1] for _, frame in self.frames.parts) == u.shape[-1]

    def _go(self, way: int, given: Tensor, out: Tensor) -> Tensor:
        pages, n, width = given.shape
        given, out = given.contiguous(), out.contiguous()
        native = library()
        assert native is not None
        places = None if self.places is None else self.places.data_ptr()
        addresses = given.data_ptr(), out.data_ptr()
        native.frame_patterns(self.structures, self.count, pages, n, places, width, way, *addresses)
        return out


def make_host_frames(frames: Frames, places: Tensor | None) -> HostFrames | None:
    """Bind these frames; None where there is no native library, or they are not as it takes them."""
    tensors = [tensor for _, frame in frames.parts for tensor in frame.tensors]
    if library() is None or any(tensor.device.type != "cpu" or not tensor.is_contiguous() for tensor in tensors):
        return None
    return HostFrames(frames, places)
