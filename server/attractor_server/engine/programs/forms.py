"""Closed forms for serving: what a network's energy, slope and writing share is computed once.

They lean on what writing and erasing do to a page: see `QuadraticForm`. Tests hold them to `energy/reference.py`.
"""

import weakref
from typing import Protocol

from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.protocol import Tensors, Terms
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.engine.programs.bilinear import BilinearForm
from attractor_server.engine.programs.quadratic import QuadraticForm


class Look(Protocol):
    """The energy at patterns x (pages, patterns, d), as far as it has been computed."""

    def slope(self) -> Tensor:
        """∇ₓE, like x; the caller's own."""

    def energy(self) -> Tensor:
        """E(x; θ), (pages, patterns)."""

    def gap(self) -> Tensor:
        """E(x; θ) − E(x; θ₀), (pages, patterns)."""


class Ground(Protocol):
    """What patterns that are being written have in common through all steps."""

    def slopes(self, fast: Tensors, distance: float, initial: Tensors, weight: Tensor, terms: Terms) -> Tensors:
        """∇_θ of Σᵢ weightᵢ·(the terms of xᵢ) + ½·distance·‖θ − θ₀‖²; the caller's own."""


class Form(Protocol):
    """A model's energy, with all that does not depend on pages prepared."""

    def look(self, fast: Tensors, x: Tensor) -> Look:
        """The energy of each page at its patterns."""

    def ground(self, x: Tensor) -> Ground:
        """What to write x (pages, patterns, d) with."""


_FORMS: "dict[int, tuple[weakref.ref[Model], Form | None]]" = {}
"""By identity, since a model has no other before it went through a file; an entry leaves with its model"""


def form_of(model: Model) -> Form | None:
    """The model's closed form, made on first use; None where its network has none."""
    key = id(model)
    found = _FORMS.get(key)
    if found is None:
        found = _FORMS[key] = (weakref.ref(model, lambda _: _FORMS.pop(key, None)), _made(model))
    return found[1]


def _made(model: Model) -> Form | None:
    if isinstance(model.network, Quadratic):
        return QuadraticForm.of(model.parameters)
    if isinstance(model.network, Bilinear):
        return BilinearForm.of(model.parameters)
    return None
