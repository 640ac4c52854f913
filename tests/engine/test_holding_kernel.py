"""What is known is held by the kernels in C as by the plain loop."""

import math
from dataclasses import replace

import pytest
import torch
from tests.support.episodes import error
from tests.support.kernel_cases import CASES, PARTS, episode, floats, single
from tests.support.model_files import tiny
from torch import Generator, Tensor

from attractor_server.energy.frame import Frame, Frames, fit_frame
from attractor_server.energy.model import Model
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.reader import Reading, read
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.engine.compute.dispatch import compute_path, read_pages
from attractor_server.engine.compute.native.frames import HostFrames, make_host_frames
from attractor_server.engine.compute.native.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler on this machine")
every = pytest.mark.parametrize("name", CASES.keys())
ENTRIES = 48


def transform_of(values: int, *, whitened: bool) -> Transform:
    """Between so many values and 48 entries; float64."""
    generator = Generator().manual_seed(values)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    components, _ = torch.linalg.qr(normal(values, ENTRIES))
    whitening = Whitening(components=components, spread=normal(ENTRIES).abs() + 0.3) if whitened else None
    return Transform(scale=normal(values).abs() + 0.5, shift=normal(values), whitening=whitening)


def frames_of(transform: Transform, pages: int) -> Frames:
    """Of vectors that are alike, for all values but the first two."""
    size = len(transform.scale) - 2
    u = 1 + torch.randn(pages, 9, size, generator=Generator().manual_seed(pages), dtype=torch.float64)
    return Frames([(slice(2, size + 2), fit_frame(u, present=torch.ones(pages, 9, dtype=torch.bool), rank=8))])


def to_single(frames: Frames) -> HostFrames:
    parts = [
        (
            span,
            Frame(**{name: value.float() if value.is_floating_point() else value for name, value in vars(one).items()}),
        )
        for span, one in frames.parts
    ]
    found = make_host_frames(Frames(parts), None)
    assert found is not None
    return found


def in_single(transform: Transform) -> Transform:
    whitening = transform.whitening
    if whitening is not None:
        whitening = Whitening(components=whitening.components.float(), spread=whitening.spread.float())
    return Transform(scale=transform.scale.float(), shift=transform.shift.float(), whitening=whitening)


class Asked:
    """Cues of which some values are known and others missing, for pages of a random model."""

    def __init__(self, name: str, values: int, *, whitened: bool, pages: int, n: int) -> None:
        self.case = CASES[name]
        self.parameters, self.fast, _ = episode(pages, n, case=self.case)
        self.transform = transform_of(values, whitened=whitened)
        generator = Generator().manual_seed(n)
        self.known = torch.rand(pages, n, values, generator=generator) < 0.5
        cues = torch.randn(pages, n, values, generator=generator, dtype=torch.float64)
        self.cues = torch.where(self.known, cues, math.nan)

    @property
    def model(self) -> Model:
        parameters = single(self.parameters)
        return tiny(network=self.case.network, parameters=parameters, transform=in_single(self.transform))

    def found(self, model: Model, known: Tensor, fast: Tensors | None = None) -> Reading:
        cues = self.cues.float()
        hold = model.transform.hold(cues, known)
        return read_pages(model, fast or floats(self.fast), model.transform.encode(cues), hold=hold, steps=4)

    def wanted(self) -> Reading:
        hold, x = self.transform.hold(self.cues, self.known), self.transform.encode(self.cues)
        return read(self.case.network, self.parameters, self.fast, x, hold=hold, steps=4)


@every
@pytest.mark.parametrize(("values", "whitened"), [(ENTRIES, False), (ENTRIES, True), (61, True)])
@pytest.mark.parametrize(("pages", "n"), [(1, 1), (9, 1), (3, 4), (2, 7)])
def test_what_is_known_is_held_as_in_the_plain_loop(name: str, values: int, whitened: bool, pages: int, n: int) -> None:
    asked = Asked(name, values, whitened=whitened, pages=pages, n=n)
    model = asked.model
    way = compute_path(model)
    assert way is not None
    assert way.in_place is not None
    assert way.in_place.holds(model.transform.hold(asked.cues.float(), asked.known))
    found, wanted = asked.found(model, asked.known), asked.wanted()
    assert max(error(getattr(found, part).double(), getattr(wanted, part)) for part in PARTS) < 1e-4
    decoded = model.transform.decode(found.pattern)
    if values == ENTRIES:  # all that is known can be said by the entries
        assert torch.allclose(decoded[asked.known], asked.cues.float()[asked.known], atol=1e-4)


@every
@pytest.mark.parametrize(("values", "whitened"), [(ENTRIES, False), (61, True)])
@pytest.mark.parametrize(("pages", "n"), [(1, 1), (3, 4)])
def test_what_is_known_is_held_in_the_frames_of_pages(
    name: str, values: int, whitened: bool, pages: int, n: int
) -> None:
    asked = Asked(name, values, whitened=whitened, pages=pages, n=n)
    model, cues, frames = asked.model, asked.cues.float(), frames_of(asked.transform, pages)
    own, way = to_single(frames), compute_path(model)
    cues[0, 0, :5], asked.cues[0, 0, :5], asked.known[0, 0, :5] = math.nan, math.nan, True  # known to be missing
    hold = model.transform.hold(cues, asked.known, own)
    assert way is not None
    assert way.in_place is not None
    assert way.in_place.holds(hold)
    found = read_pages(model, floats(asked.fast), model.transform.encode(cues, own), hold=hold, steps=4)
    x = asked.transform.encode(asked.cues, frames)
    hold = asked.transform.hold(asked.cues, asked.known, frames)
    wanted = read(asked.case.network, asked.parameters, asked.fast, x, hold=hold, steps=4)
    assert max(error(getattr(found, part).double(), getattr(wanted, part)) for part in PARTS) < 1e-3


@every
@pytest.mark.parametrize("whitened", [False, True])
def test_where_nothing_is_known_nothing_is_changed_by_a_bit(name: str, whitened: bool) -> None:
    asked = Asked(name, ENTRIES, whitened=whitened, pages=5, n=3)
    model, known = asked.model, asked.known.clone()
    known[2] = False
    held = asked.found(model, known)
    plain = read_pages(model, floats(asked.fast), model.transform.encode(asked.cues.float()), steps=4)
    assert all(torch.equal(getattr(held, part)[2], getattr(plain, part)[2]) for part in PARTS)
    assert not torch.equal(held.pattern[0], plain.pattern[0])


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_neighbours_hold_and_know_changes_no_bit(name: str, bad: float) -> None:
    asked = Asked(name, 61, whitened=True, pages=5, n=3)
    model, others = asked.model, torch.arange(5) != 3
    alone = asked.found(model, asked.known)
    fast = {part: value.clone() for part, value in floats(asked.fast).items()}
    for value in fast.values():
        value[others] = bad
    asked.cues[others] = asked.cues[others].where(~asked.known[others], bad)
    found = asked.found(model, asked.known, fast)
    assert all(torch.equal(getattr(found, part)[3], getattr(alone, part)[3]) for part in PARTS)


def test_what_another_transform_holds_goes_through_tensors() -> None:
    asked = Asked("entrywise", ENTRIES, whitened=True, pages=3, n=2)
    model, cues = asked.model, asked.cues.float()
    other = replace(model.transform, shift=model.transform.shift + 1)
    x, hold = model.transform.encode(cues), other.hold(cues, asked.known)
    found = read_pages(model, floats(asked.fast), x, hold=hold, steps=3)
    wanted = read(asked.case.network, single(asked.parameters), floats(asked.fast), x, hold=hold, steps=3)
    assert error(found.pattern, wanted.pattern) < 1e-4
