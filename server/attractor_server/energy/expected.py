"""The tensors a model file has to have, and their shapes: as network, loops and fields ask for."""

from collections.abc import Collection, Mapping

from torch import Tensor

from attractor_server.energy.eraser import initial_eraser
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.protocol import Shapes
from attractor_server.energy.parameters import TERMS, Parameters, initial_reader, initial_writer, shapes_of
from attractor_server.fields import Layout

OPTIONS = ("reader.momentum_logit", "reader.log_proximity", *(f"writer.{name}" for name in TERMS.values()))
"""Tensors of the loops that a model may do without"""


def expected_shapes(
    network: EnergyNetwork, layout: Layout, tensors: Mapping[str, Tensor], options: Collection[str]
) -> Mapping[str, object]:
    """The shape of each tensor, by name, with those options; how many steps, codes and components, the tensors say."""
    found = Parameters.of(tensors)
    slow, initial = network.shapes
    codes = {field.name: (len(field.alphabet), _width(found, field.name)) for field in layout.fields if field.alphabet}
    parts: dict[str, Shapes] = {
        "slow": slow,
        "initial": initial,
        "reader": _reader(found, options),
        "writer": _writer(found, initial, options),
        "eraser": _eraser(found, initial),
        "codes": codes,
    }
    asked: dict[str, object] = {
        f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()
    }
    entries = sum(field.size * (codes[field.name][1] if field.name in codes else 1) for field in layout.fields)
    asked |= dict.fromkeys(("transform.scale", "transform.shift"), (entries,))
    if (spread := tensors.get("transform.spread")) is not None:
        asked |= {"transform.components": (entries, spread.numel()), "transform.spread": (spread.numel(),)}
    if "calibration.weights" in tensors:
        asked["calibration.weights"] = (3,)
    return asked


def _reader(found: Parameters, options: Collection[str]) -> Shapes:
    steps = found.reading_steps
    optional = {name: (steps,) for name in ("momentum_logit", "log_proximity") if f"reader.{name}" in options}
    return {name: shape for name, shape in shapes_of(initial_reader(steps)).items() if name == "log_step"} | optional


def _writer(found: Parameters, initial: Shapes, options: Collection[str]) -> Shapes:
    terms = [term for term, name in TERMS.items() if f"writer.{name}" in options]
    return shapes_of(initial_writer(found.writing_steps, initial, terms))


def _eraser(found: Parameters, initial: Shapes) -> Shapes:
    if not found.eraser:
        return {}
    steps = next((value.numel() for name, value in found.eraser.items() if name.startswith("energy.")), 0)
    return shapes_of(initial_eraser(steps, initial))


def _width(found: Parameters, name: str) -> int:
    codes = found.codes.get(name)
    return codes.shape[-1] if codes is not None and codes.dim() else 1
