"""A model: what meta-training yields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from attractor_server.energy.encoding import Encoding
from attractor_server.energy.eraser import count_erasing_steps
from attractor_server.energy.familiarity import Calibration
from attractor_server.energy.frame import Frames, Framing, Spans, fit_frames, frames_of, initial_frames
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.page_image import can_be_meant, unpack_image
from attractor_server.energy.parameters import Parameters
from attractor_server.energy.posterior import REACH, Area, Posterior, View
from attractor_server.energy.transform import Hold, Pull, Transform
from attractor_server.fields import Layout

CHUNK = 8

WHOLE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with all that was learned for it, and what its users need to know."""

    name: str
    layout: Layout
    network: EnergyNetwork
    parameters: Parameters
    transform: Transform
    capacity: int
    """Patterns that one memory holds at the rated error"""
    record: Mapping[str, object]
    """How it was trained and what it reached on validation data; JSON values"""
    calibration: Calibration | None = None
    digest: str = ""
    """Over everything above; "sha256:…" once the model went through a file"""
    own_calibration: Calibration | None = None
    """Of pages with frames. Fitted beside the model, and no part of its digest, so that memories stay those of the same
    model"""
    posterior: Posterior | None = None
    """How kept patterns take part in reading; None: the network answers alone. Fitted beside the model, too"""

    @property
    def steps(self) -> int:
        """Reading steps it was trained with (K)."""
        return self.parameters.reading_steps

    @property
    def write_chunk(self) -> int:
        """Patterns to be written in one loop: those of a whole page where it was trained mostly for that, else 8.

        Patterns that are much alike make large batches overshoot: a mean of like gradients is as large as each.
        """
        recipe = self.record.get("recipe")
        episodes = recipe.get("episodes") if isinstance(recipe, Mapping) else None
        whole = episodes.get("whole_share", 0.0) if isinstance(episodes, Mapping) else 0.0
        return 4 * self.capacity if whole >= WHOLE_SHARE else CHUNK

    @property
    def weights_bytes(self) -> int:
        """Bytes of one page's fast weights."""
        return sum(tensor.nbytes for tensor in self.parameters.initial.values())

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: its fast weights, and its frames."""
        return self.weights_bytes + sum(tensor.nbytes for tensor in self.initial_frames.values())

    @cached_property
    def initial_frames(self) -> Tensors:
        """Frames of a page that change nothing, each (*shape); with as many axes as its patterns can differ along."""
        frames = initial_frames(self.frame_spans, rank=max(1, self.capacity - 1))
        return {name: tensor.to(self.device) for name, tensor in frames.items()}

    @cached_property
    def initial_page(self) -> Tensors:
        """All that an empty page has, each (*shape): initial fast weights, and frames."""
        return {**self.parameters.initial, **self.initial_frames}

    def fit_frames(self, values: Tensor, *, present: Tensor) -> Tensors:
        """Return frames of pages fitted to values (pages, n, values) in user units that are present (pages, n)."""
        return fit_frames(self.prepare(values), self.frame_spans, present=present, rank=max(1, self.capacity - 1))

    @property
    def has_metric(self) -> bool:
        """Whether its pages can see some field in a metric of their own."""
        return bool(self.frame_spans)

    def takes_image(self, image: bytes) -> bool:
        """Return whether the image is one of a page of this model, of numbers that can be meant."""
        page = unpack_image(image, self.initial_page)
        return page is not None and can_be_meant(page)

    def calibration_of(self, *, framed: bool) -> Calibration | None:
        """Return the calibration for pages with frames, or without."""
        return self.own_calibration if framed and self.own_calibration is not None else self.calibration

    def frames_of(self, tensors: Tensors) -> Frames | None:
        """Return the frames among the tensors of pages, each (pages, *shape); None where the model has no vectors."""
        return frames_of(tensors, self.frame_spans)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.transform.scale.device

    @property
    def entries(self) -> int:
        """Entries of a pattern in network units."""
        whitening = self.transform.whitening
        return self.encoding.size if whitening is None else whitening.components.shape[1]

    @cached_property
    def is_invertible(self) -> bool:
        """Whether `decode` undoes `encode`: no field has codes, or limits."""
        return not self.parameters.codes and all(field.traits.recall_limits is None for field in self.layout.fields)

    @property
    def erases(self) -> bool:
        """Whether patterns can be erased again."""
        return count_erasing_steps(self.parameters) > 0

    @property
    def pulls(self) -> bool:
        """Whether known entries can be pulled towards the cue, where they are not held."""
        return "log_proximity" in self.parameters.reader

    @property
    def encoding(self) -> Encoding:
        """Encoding of the values of its fields."""
        return Encoding(layout=self.layout, codes=self.parameters.codes)

    @cached_property
    def frame_spans(self) -> Spans:
        """Entries of the fields that can have frames: vectors behind a whitening, which say no more than a direction.

        Others, as vectors of signs, mean something by each of their values.
        """
        if self.transform.whitening is None:
            return {}
        spans, sizes = {}, self.encoding.sizes
        for field, start, size in zip(self.layout.fields, accumulate(sizes, initial=0), sizes, strict=False):
            if field.traits.has_metric:
                spans[field.name] = slice(start, start + size)
        return spans

    @cached_property
    def areas(self) -> Sequence[Area]:
        """The image that a pattern is, where it is one that is large enough to be moved."""
        if len(self.layout.fields) > 1:
            return []
        areas, sizes = [], self.encoding.sizes
        for field, start, size in zip(self.layout.fields, accumulate(sizes, initial=0), sizes, strict=False):
            if field.traits.has_area and min(field.shape[:2]) > 2 * REACH:
                span = slice(start, start + size)
                areas.append(Area(span, field.shape[0], field.shape[1], self.transform.shift[span]))
        return areas

    def encode(self, values: Tensor, frames: Framing | None = None) -> Tensor:
        """Turn user units (…, values), missing ones NaN, into network units (…, entries).

        In pages with frames, (pages, patterns, values) into (pages, patterns, entries).
        """
        return self.transform.encode(self.encoding.encode(values), frames)

    def view(self, values: Tensor, frames: Framing | None = None, *, given: Tensor | None = None) -> View:
        """Return values (memories, m, values) as a posterior compares them: where cues are given, else everywhere."""
        told = values if given is None else torch.where(given, values, torch.nan)
        return View(self.encode(values, frames), self.prepare(told), self.areas)

    def prepare(self, values: Tensor) -> Tensor:
        """Do the part of `encode` that is the same with all frames; `transform.whiten` does the rest."""
        return self.transform.shift_values(self.encoding.encode(values))

    def decode(self, x: Tensor, frames: Framing | None = None) -> Tensor:
        """Turn network units into user units (…, values), within the limits of each field's kind.

        In pages with frames, (pages, patterns, entries) into (pages, patterns, values).
        """
        values = self.encoding.decode(self.transform.decode(x, frames))
        for field, span in self.layout.spans:
            if (limits := field.traits.recall_limits) is not None:
                values[..., span] = values[..., span].clamp(*limits)
        return values

    def hold(self, values: Tensor, known: Tensor, frames: Framing | None = None) -> Hold:
        """Clamp known values hard: return what puts them back into any x; both (…, values), `known` bool."""
        return self.transform.hold(self.encoding.encode(values), self.encoding.spread(known), frames)

    def pull(self, values: Tensor, known: Tensor, frames: Framing | None = None) -> Pull:
        """Clamp known values softly: return the gradient of the proximity term; both (…, values), `known` bool."""
        return self.transform.pull(self.encoding.encode(values), self.encoding.spread(known), frames)

    def to(self, device: torch.device) -> "Model":
        """Return the model with its tensors on that device."""
        tensors = {name: tensor.to(device) for name, tensor in tensors_of(self).items()}
        return replace(
            self,
            parameters=Parameters.of(tensors),
            transform=transform_of(tensors),
            calibration=calibration_of(tensors),
            own_calibration=None if self.own_calibration is None else self.own_calibration.to(device),
            posterior=None if self.posterior is None else self.posterior.to(device),
        )


CALIBRATION = "calibration.weights"

TRANSFORM = "transform."


def tensors_of(model: Model) -> Tensors:
    """Return all tensors of a model by the names that they have in its file."""
    transform = {f"{TRANSFORM}{name}": tensor for name, tensor in model.transform.tensors.items()}
    calibration = {} if model.calibration is None else {CALIBRATION: model.calibration.weights}
    return {**model.parameters.flat(), **transform, **calibration}


def calibration_of(tensors: Mapping[str, Tensor]) -> Calibration | None:
    """Return the calibration among the tensors of a file, or None."""
    return Calibration(tensors[CALIBRATION]) if CALIBRATION in tensors else None


def transform_of(tensors: Mapping[str, Tensor]) -> Transform:
    """Return the input transform among the tensors of a file.

    Raises:
        KeyError: one of its tensors is missing.
    """
    parts = {name.removeprefix(TRANSFORM): value for name, value in tensors.items() if name.startswith(TRANSFORM)}
    try:
        return Transform.of(parts)
    except KeyError as error:
        raise KeyError(f"{TRANSFORM}{error.args[0]}") from error
