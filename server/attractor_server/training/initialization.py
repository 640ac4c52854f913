"""Start of meta-training: the data's principal components, whitened, and loops that work."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from attractor_server.energy.encoding import Encoding
from attractor_server.energy.eraser import initial_eraser
from attractor_server.energy.model import Model
from attractor_server.energy.networks import NETWORKS, TrainableNetwork, network_of, switches_of
from attractor_server.energy.networks.protocol import Start, Tensors
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import Source
from attractor_server.training.recipe import Recipe

POOL = 8192
"""Patterns for the principal components"""

_NONE = "missing"


def initialize_model(recipe: Recipe, source: Source) -> Model:
    """Return the recipe's model before its first step.

    Raises:
        SettingsError: the network cannot be made of what the recipe says.
    """
    generator = Generator().manual_seed(recipe.seed)
    codes = {
        field.name: _codes(len(field.alphabet), recipe.input.code, generator)
        for field in source.layout.fields
        if field.has_codes
    }
    encoded = Encoding(layout=source.layout, codes=codes).encode(source.pool(POOL))
    transform = transform_for(encoded, recipe.input.components, recipe.input.whitening)
    x = transform.encode(encoded)
    network = _network(recipe, x.shape[-1])
    weights = network.start(Start(deviation=x.std(0), lift=_lift(transform, x.shape[-1]), generator=generator))
    slow, fast = network.shapes
    parameters = Parameters(
        slow={name: weights[name] for name in slow},
        initial={name: weights[name] for name in fast},
        reader=_reader(recipe),
        writer=_writer(recipe, list(fast)),
        eraser=initial_eraser(recipe.eraser.steps, fast) if recipe.eraser else {},
        codes=codes,
    )
    return Model(
        name=recipe.name,
        layout=source.layout,
        network=network,
        parameters=parameters,
        transform=transform,
        capacity=recipe.capacity,
        record={},
    )


def inherit_parameters(parent: Model, recipe: Recipe, anew: Model) -> Model:
    """Return the recipe's model with its parent's learned parameters and transform, but with the eraser of `anew`.

    It has its parent's digest until it is saved.

    Raises:
        SettingsError: the parent has other fields, another network or loops of other lengths.
    """
    parts: Sequence[tuple[str, object, object]] = [
        ("fields", parent.layout.fields, anew.layout.fields),
        ("network", parent.network, anew.network),
    ]
    there, here = _shapes(parent), _shapes(anew)
    tensors = [(name, there.get(name, _NONE), here.get(name, _NONE)) for name in sorted(there | here)]
    for name, seen, expected in [*parts, *tensors]:
        if seen != expected:
            raise SettingsError(f"parent: saw {parent.name} with {name} {seen}; expected {expected}, as {recipe.name}")
    parameters = replace(parent.parameters, eraser=anew.parameters.eraser)
    return replace(anew, parameters=parameters, transform=parent.transform, digest=parent.digest)


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    tensors = {**model.transform.tensors, **model.parameters.flat()}
    return {name: tuple(value.shape) for name, value in tensors.items() if not name.startswith("eraser.")}


def transform_for(encoded: Tensor, components: int, power: float) -> Transform:
    """Fit a transform to patterns (n, values): the identity, or centred and whitened along the leading components.

    Raises:
        SettingsError: there are not so many components.
    """
    values = encoded.shape[1]
    if not components:
        return Transform(scale=torch.ones(values), shift=torch.zeros(values))
    if components > min(encoded.shape):
        raise SettingsError(f"input.components: saw {components}; expected at most {min(encoded.shape)}")
    mean = encoded.mean(0)
    _, deviations, vectors = torch.linalg.svd(encoded - mean, full_matrices=False)
    spread = (deviations[:components] / len(encoded) ** 0.5).clamp(min=1e-6) ** power
    whitening = Whitening(components=vectors[:components].T.contiguous(), spread=spread)
    return Transform(scale=torch.ones(values), shift=-mean, whitening=whitening)


def _network(recipe: Recipe, inputs: int) -> TrainableNetwork:
    switches = switches_of(recipe.network.get("kind"))
    for name, value in recipe.network.items():
        if name in switches:
            if not isinstance(value, bool):
                raise SettingsError(f"network.{name}: saw {value!r}; expected true or false")
        elif isinstance(value, bool | float) or (isinstance(value, int) and value < 1):
            raise SettingsError(f"network.{name}: saw {value!r}; expected a whole number from 1 on")
    try:
        return network_of({**recipe.network, "inputs": inputs})
    except KeyError as error:
        raise SettingsError(f"network.kind: saw nothing; expected one of {sorted(NETWORKS)}") from error
    except (TypeError, ValueError) as error:
        raise SettingsError(f"network: saw {recipe.network}; {error}") from error


def _lift(transform: Transform, entries: int) -> Tensor:
    whitening = transform.whitening
    return torch.eye(entries) if whitening is None else whitening.spread[:, None] * whitening.components.T


def _codes(characters: int, entries: int, generator: Generator) -> Tensor:
    if not entries:
        return torch.eye(characters)
    return torch.nn.functional.normalize(torch.randn(characters, entries, generator=generator), dim=1)


def _reader(recipe: Recipe) -> Tensors:
    table, steps = recipe.reader, recipe.reader.steps
    reader = {**initial_reader(steps), "log_step": torch.full((steps,), table.step).log()}
    if not table.momentum:
        del reader["momentum_logit"]
    if table.proximity:
        reader["log_proximity"] = torch.zeros(steps)
    return reader


def _writer(recipe: Recipe, tensors: list[str]) -> Tensors:
    """Return a writer with values from short runs, so that features need not wait for them.

    A step that grows with the patterns in a chunk stands for the sum over them, by which the energy has to change.
    """
    writer = initial_writer(recipe.writer.steps, tensors, recipe.writer.terms)
    for name, value in (("log_rate.W", 0.45), ("log_rate.b", 0.1), ("log_alpha", 0.5), ("log_clip", 6.0)):
        if name in writer:
            writer[name] = torch.full_like(writer[name], value).log()
    counts = {"rate_count": 1.0, "rate_stored": 0.2, "alpha_count": 0.3}
    return {**writer, **{name: torch.tensor(value) for name, value in counts.items()}}
