"""Format of images: the tensors of a page as the backend store and exports have them.

Fast weights as float32, tensors in the order of their names; then the frames in the same order, each tensor in its own
type, unless they change nothing: a page without frames has the image that it had before there were any.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from attractor_server.energy.frame import parts_of_frames, weights_of
from attractor_server.energy.networks.protocol import Tensors


def pack_image(page: Tensors, initial: Mapping[str, Tensor]) -> bytes:
    """Return the image of a page's tensors, each (1, *shape); `initial` are those of an empty one, each (*shape)."""
    weights, frames = _split(page)
    content = b"".join(_bytes_of(tensor.float()) for tensor in weights.values())
    own = b"".join(_bytes_of(tensor) for tensor in frames.values())
    none = b"".join(_bytes_of(tensor) for tensor in _split(initial)[1].values())
    return content if own == none else content + own


def unpack_image(content: bytes, initial: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors of an image, each (1, *shape), where the initial ones are; None if it is of other lengths."""
    weights, frames = _split(initial)
    kinds = {**dict.fromkeys(weights, torch.float32), **{name: tensor.dtype for name, tensor in frames.items()}}
    lengths = {name: initial[name].numel() * kind.itemsize for name, kind in kinds.items()}
    whole = sum(lengths.values())
    if len(content) == whole - sum(lengths[name] for name in frames):
        content += b"".join(_bytes_of(tensor) for tensor in frames.values())
    if len(content) != whole:
        return None
    parts = torch.frombuffer(bytearray(content), dtype=torch.uint8).split(list(lengths.values()))
    return {
        name: part.clone().view(kinds[name]).reshape(1, *initial[name].shape).to(initial[name].device)
        for name, part in zip(lengths, parts, strict=True)
    }


def can_be_meant(page: Tensors) -> bool:
    """Return whether a page's tensors are finite numbers, and its frames have scales above zero."""
    scales = [tensor for name, tensor in parts_of_frames(page).items() if name.endswith(".scale")]
    return all(bool(tensor.isfinite().all()) for tensor in page.values()) and all(
        bool((one > 0).all()) for one in scales
    )


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and frames, each in the order of names."""
    ordered = dict(sorted(tensors.items()))
    return weights_of(ordered), parts_of_frames(ordered)


def _bytes_of(tensor: Tensor) -> bytes:
    content: bytes = tensor.cpu().contiguous().numpy().tobytes()
    return content
