"""What the server should answer: computed from the model file by plain autograd, one pattern at a time."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from tests.support.quick_training import PATTERNS, random_values
from torch import Generator, Tensor

from attractor_server.energy import reference
from attractor_server.energy.model import Model

Floats = NDArray[np.float32]
TOLERANCE = 2e-4


def stored_patterns(model: Model, seed: int = 0, count: int = PATTERNS) -> Floats:
    """Random patterns (patterns, *shape) as users send them."""
    (field,) = model.layout.fields
    values = random_values(field, (count,), Generator().manual_seed(seed))
    return values.reshape(-1, *field.shape).numpy()


def damaged(patterns: Floats, seed: int = 0, *, share: float = 0.4, noise: float = 0.0) -> Floats:
    """The same with a share of their entries missing (NaN), and noise of that σ on the others."""
    random = np.random.default_rng(seed)
    noisy = patterns + noise * random.standard_normal(patterns.shape)
    return np.where(random.random(patterns.shape) < share, np.nan, noisy).astype(np.float32)


def written(model: Model, patterns: Floats) -> dict[str, Tensor]:
    """The fast weights of a new memory after one store."""
    x = list(_units(model, patterns))
    fast = reference.write(model.network, model.parameters, dict(model.parameters.initial), x, stored=0)
    return {name: value.detach() for name, value in fast.items()}


def recalled(model: Model, fast: Mapping[str, Tensor], cues: Floats, *, steps: int = 0) -> Floats:
    """What the cues lead to, in users' units."""
    found = [
        reference.read(
            model.network,
            model.parameters,
            dict(fast),
            cue,
            known=torch.zeros(cue.shape, dtype=torch.bool),
            steps=steps or model.steps,
        )
        for cue in _units(model, cues)
    ]
    return model.decode(torch.stack(found).detach()).reshape(cues.shape).numpy()


def slopes(model: Model, fast: Mapping[str, Tensor], x: Floats) -> Floats:
    """∇ₓE of each row of x (patterns, d), in network units, under the bound that the reader sets."""
    found = torch.stack([reference.slope(model.network, model.parameters, dict(fast), one) for one in torch.tensor(x)])
    bounded = found / (1 + found.square().mean(-1, keepdim=True)).sqrt()
    return bounded.detach().numpy()


def error(found: Floats, truth: Floats) -> float:
    """Mean squared error."""
    return float(np.square(found - truth).mean())


def _units(model: Model, values: Floats) -> Tensor:
    return model.encode(torch.tensor(values).flatten(1))
