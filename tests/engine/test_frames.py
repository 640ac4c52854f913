"""Pages with frames: written, read, chosen, held, spilled and erased in their own metric."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.engine_bench import Bench, Mask, Values
from tests.support.tiny_models import KEY, VALUE, able_model, tiny_model, whitened_model
from torch import Generator, Tensor

from attractor_server.energy.frame import Frames, fit_frame, weights_of
from attractor_server.energy.model import Model
from attractor_server.energy.page_image import pack_image, unpack_image
from attractor_server.energy.reader import read
from attractor_server.energy.transform import Whitening
from attractor_server.energy.writer import write
from attractor_server.engine.compute.native.frames import make_host_frames
from attractor_server.engine.compute.native.library import library
from attractor_server.engine.engine import Engine
from attractor_server.engine.pages.precision import PRECISIONS, Precision
from attractor_server.engine.pages.spill import Residency
from attractor_server.fields import Field
from attractor_server.memories.outcomes import Erased, Recalled, Recognized
from attractor_server.memories.settings import MemorySettings
from attractor_server.scheduling.jobs import Operation

OWN = MemorySettings(page_patterns=8, metric="own")
LONG = Field(name="long", kind="vector", shape=(16,))


def behind_whitening(model: Model) -> Model:
    """The model behind a whitening that changes nothing."""
    size = len(model.transform.scale)
    whitening = Whitening(components=torch.eye(size), spread=torch.ones(size))
    return replace(model, transform=replace(model.transform, whitening=whitening))


MODELS = {
    "two fields": behind_whitening(tiny_model("two fields", KEY, VALUE)),
    "whitened": whitened_model("whitened", KEY, left_out=1),
    "by kernels": behind_whitening(tiny_model("by kernels", LONG, features=16)),
    "able": behind_whitening(able_model("able", KEY, VALUE)),
}
native = pytest.mark.skipif(library() is None, reason="no C compiler on this machine")


def alike(random: np.random.Generator, count: int, model: Model) -> Values:
    """Vectors with a large part in common, and more spread in some directions than in others."""
    size = model.layout.size
    common = np.random.default_rng(7).random(size)
    return (2 * common + np.linspace(0.1, 1.0, size) * random.standard_normal((count, size))).astype(np.float32)


@pytest.fixture(params=MODELS)
def bench(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Bench:
    return Bench(MODELS[request.param], loop, settings=OWN)


def expected(model: Model, stored: Values, cues: Values) -> Values:
    """What the loops of `energy` answer in a page that was written at once."""
    values, asked = torch.from_numpy(stored)[None], torch.from_numpy(cues)[None]
    present = torch.ones(values.shape[:2], dtype=torch.bool)
    frames = model.frames_of(model.fit_frames(values, present=present))
    x, none = model.encode(values, frames), torch.zeros(1, dtype=torch.long)
    fast = write(model.network, model.parameters, model.parameters.memories(1), x, present=present, stored=none)
    with torch.no_grad():
        found = read(model.network, model.parameters, fast, model.encode(asked, frames)).pattern
    return model.decode(found, frames)[0].detach().numpy()


@native
@pytest.mark.parametrize(("size", "rank"), [(5, 3), (12, 12), (61, 7), (96, 31)])
def test_the_native_way_through_frames_is_the_plain_one(size: int, rank: int) -> None:
    generator = Generator().manual_seed(size)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    fields = slice(0, size), slice(size + 2, 2 * size + 2)
    parts = [
        (span, fit_frame(2 + draw(4, 9, size), present=torch.ones(4, 9, dtype=torch.bool), rank=rank))
        for span in fields
    ]
    frames, places = Frames(parts), torch.tensor([2, 0, 2])
    u = draw(3, 4, 2 * size + 3)
    gaps = torch.where(draw(*u.shape) < 0, torch.nan, u)
    some, here = make_host_frames(frames, places), make_host_frames(frames.select(places), None)
    assert some is not None
    assert here is not None
    plain = frames.select(places)
    for host in (some, here):
        assert torch.allclose(host.encode(gaps), plain.encode(gaps), atol=1e-4)
        assert torch.allclose(host.decode(u), plain.decode(u), atol=1e-4)
        assert torch.allclose(host.pull_back(u), plain.pull_back(u), atol=1e-4)


def test_a_page_is_written_and_read_in_its_own_metric(bench: Bench, random: np.random.Generator) -> None:
    stored, cues = alike(random, 5, bench.model), alike(random, 3, bench.model)
    bench.store("a", stored)
    np.testing.assert_allclose(bench.recall("a", cues), expected(bench.model, stored, cues), rtol=1e-3, atol=1e-4)
    bench.settings = replace(OWN, metric="model")
    bench.store("b", stored)
    assert np.abs(bench.recall("a", cues) - bench.recall("b", cues)).max() > 0.01


def test_a_page_that_is_filled_in_several_stores_has_the_frame_of_all(
    bench: Bench, random: np.random.Generator
) -> None:
    stored, cues = alike(random, 7, bench.model), alike(random, 3, bench.model)
    for part in (stored[:1], stored[1:3], stored[3:]):
        bench.store("a", part)
    np.testing.assert_allclose(bench.recall("a", cues), expected(bench.model, stored, cues), rtol=1e-3, atol=1e-4)


def test_memories_with_frames_and_without_are_answered_in_one_batch_as_alone(
    bench: Bench, random: np.random.Generator
) -> None:
    given, cues = alike(random, 5, bench.model), alike(random, 2, bench.model)
    names = ("own", "model", "own several", "model several")
    for name in names:
        bench.settings = replace(OWN, metric="own" if "own" in name else "model")
        bench.store(name, np.concatenate([given, alike(random, 9, bench.model)]) if "several" in name else given)
    for operation in (Operation.QUERY, Operation.RECOGNIZE):
        together = bench.run(*(bench.job(operation, name, cues) for name in names))
        for name, found in zip(names, together, strict=True):
            (alone,) = bench.run(bench.job(operation, name, cues))
            assert isinstance(found, Recalled | Recognized)
            assert isinstance(alone, Recalled | Recognized)
            np.testing.assert_allclose(found.delta_energy, alone.delta_energy, rtol=1e-4, atol=1e-4)
            if isinstance(found, Recalled) and isinstance(alone, Recalled):
                np.testing.assert_allclose(found.values, alone.values, rtol=1e-4, atol=1e-4)


def test_what_is_known_is_held_and_what_is_found_is_the_last_iterate(bench: Bench, random: np.random.Generator) -> None:
    stored, cues = alike(random, 20, bench.model), alike(random, 4, bench.model)
    bench.store("a", stored)
    known: Mask = random.random(cues.shape) < 0.5
    cues = np.where(known, cues, np.nan).astype(np.float32)
    (held,) = bench.run(bench.job(Operation.QUERY, "a", cues, known))
    traced = bench.job(Operation.QUERY, "a", cues, known)
    traced.trajectory = True
    (steps,) = bench.run(traced)
    assert isinstance(held, Recalled)
    assert isinstance(steps, Recalled)
    assert steps.iterates is not None
    np.testing.assert_array_equal(held.values[known], cues[known])
    np.testing.assert_allclose(held.values, steps.iterates[-1], rtol=1e-3, atol=1e-3)
    free = bench.recall("a", cues)
    assert np.abs(free - held.values).max() > 0.01


def test_what_is_pulled_comes_nearer_to_what_is_known(
    loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    bench = Bench(MODELS["able"], loop, settings=OWN)
    bench.store("a", alike(random, 5, bench.model))
    cues = alike(random, 4, bench.model)
    known = np.ones(cues.shape, np.bool_)
    pulled = bench.job(Operation.QUERY, "a", cues, known)
    pulled.pull = True
    (found,) = bench.run(pulled)
    assert isinstance(found, Recalled)
    assert np.square(found.values - cues).mean() < np.square(bench.recall("a", cues) - cues).mean()


def test_a_pattern_is_answered_by_the_page_that_it_was_stored_in(bench: Bench, random: np.random.Generator) -> None:
    stored = alike(random, 24, bench.model)
    bench.store("a", stored)
    assert bench.pages("a") == [8, 8, 8]
    recalled = bench.query("a", stored)
    assert recalled.pages is not None
    assert np.mean(recalled.pages == np.arange(24) // 8) > 0.6, "by chance a third"


def test_an_erased_pattern_leaves_its_page_as_if_never_stored(bench: Bench, random: np.random.Generator) -> None:
    stored, cues = alike(random, 6, bench.model), alike(random, 3, bench.model)
    bench.store("a", stored)
    assert isinstance(bench.erase("a", stored[2:4]), Erased)
    bench.store("b", np.delete(stored, [2, 3], 0))
    np.testing.assert_allclose(bench.recall("a", cues), bench.recall("b", cues), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_frames_leave_the_bank_with_their_page_and_come_back(
    precision: Precision, loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    model = MODELS["whitened"]
    bench = Bench(model, loop, settings=OWN)
    bench.engine = Engine([model], bank_bytes=2 * model.page_bytes, residency=Residency(precision=precision))
    stored = {name: alike(random, 5, model) for name in "abcdefgh"}
    cues, before = alike(random, 3, model), {}
    for name, values in stored.items():
        bench.store(name, values)
        before[name] = bench.recall(name, cues)
    for name, answers in before.items():
        np.testing.assert_array_equal(bench.recall(name, cues), answers)
        np.testing.assert_allclose(answers, expected(model, stored[name], cues), atol=0.05)


def test_a_model_without_a_whitening_has_no_frames(
    loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> None:
    plain = tiny_model("plain", KEY, VALUE)
    assert not plain.has_metric
    assert plain.page_bytes == plain.weights_bytes
    bench = Bench(plain, loop, settings=OWN)
    stored = alike(random, 5, plain)
    bench.store("a", stored)
    bench.settings = replace(OWN, metric="model")
    bench.store("b", stored)
    np.testing.assert_array_equal(bench.recall("a", stored), bench.recall("b", stored))


def test_an_image_has_frames_only_where_they_change_something() -> None:
    model = MODELS["two fields"]
    initial = model.initial_page
    empty = {name: tensor[None] for name, tensor in initial.items()}
    weights = sum(tensor.nbytes for tensor in weights_of(initial).values())
    assert len(pack_image(empty, initial)) == weights
    values = torch.randn(1, 5, model.layout.size, generator=Generator().manual_seed(0))
    framed = {**empty, **model.fit_frames(values, present=torch.ones(1, 5, dtype=torch.bool))}
    image = pack_image(framed, initial)
    assert len(image) == model.page_bytes
    for page, content in ((empty, pack_image(empty, initial)), (framed, image)):
        found = unpack_image(content, initial)
        assert found is not None
        assert all(torch.equal(found[name], page[name]) for name in initial)
    assert unpack_image(image[:-1], initial) is None
