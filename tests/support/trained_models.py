"""Small trained models, one for each kind of network, and the same with one mechanism changed or taken out."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tests.support.quick_training import trained, untrained
from tests.support.tiny_models import IMAGE, SOUND, WORD
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.energy.networks.mlp import MLP
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.networks.recurrent import Recurrent
from attractor_server.energy.parameters import initial_writer
from attractor_server.energy.posterior import Posterior
from attractor_server.fields import Field

SIGNS = Field(name="signs", kind="vector", shape=(24,))
FEW_SIGNS = Field(name="signs", kind="vector", shape=(12,))
SUBSETS = {
    "lowest": ("layer1",),
    "highest": ("layer2", "head"),
    "tensor": ("layer2.A",),
}
"""Writable sets of the perceptron, which has all of its layers otherwise: some layers, and one tensor of a layer"""
BETA_RATE = 0.05
"""η of the models whose pull towards the initial weights is varied"""
POSTERIOR = Posterior(
    weights=torch.tensor([8.0, 4.0, 6.0, 3.0, 2.0, 1.0]),
    none=torch.tensor([0.5, 0.02, 0.3, 0.2, 4.0, 2.0, 1.0]),
)
"""Of a model whose kept patterns take part in reading; the weights are made up"""
Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


def write_models(folder: Path) -> Mapping[str, Model]:
    """Files of all models, and each as its file has it, by name."""
    for model in _all():
        save_model(model, folder / f"{model.name}.safetensors")
    return {path.stem: load_model(path) for path in sorted(folder.glob("*.safetensors"))}


def without_writing(model: Model) -> Model:
    """The same model, whose writing steps go nowhere."""
    return _changed(model, model.name, writer=lambda writer: _faster(writer, 1e-12))


def without_weights(model: Model, names: Collection[str]) -> Model:
    """The same model with these slow tensors 0."""
    slow = {name: value * (name not in names) for name, value in model.parameters.slow.items()}
    return replace(model, parameters=replace(model.parameters, slow=slow))


def _all() -> Iterator[Model]:
    signs = trained(untrained("signs", SIGNS, Quadratic(inputs=24, features=24)), 150)
    yield signs
    yield replace(signs, name="keeper", posterior=POSTERIOR)
    yield from _of_reading(signs)
    yield from _of_writing(signs)
    image = Convolutional(inputs=16, image=(1, 4, 4), channels=4, blocks=1, keys=16, values=16)
    yield trained(untrained("image", IMAGE, image), 40)
    sound = Recurrent(inputs=24, steps=4, width=6, hidden=4, keys=24, values=24)
    yield trained(untrained("sound", SOUND, sound), 40)
    yield trained(untrained("text", WORD, Bilinear(inputs=36, keys=36, values=36)), 150)
    yield from _perceptrons()


def _of_reading(signs: Model) -> Iterator[Model]:
    yield _changed(signs, "plain", reader=lambda reader: {"log_step": reader["log_step"]})
    yield _changed(
        signs, "far", reader=lambda reader: {**reader, "log_step": reader["log_step"] + torch.tensor(2.0).log()}
    )


def _of_writing(signs: Model) -> Iterator[Model]:
    yield replace(without_writing(signs), name="still")
    yield _changed(signs, "once", writer=_once)
    yield _changed(signs, "once-faster", writer=lambda writer: _faster(_once(writer), 2.0))
    for name, share in (("free", 0.0), ("halved", 0.5), ("drawn", 1.0)):
        drawn = replace(signs.parameters, writer=_drawn_back(share))
        yield replace(signs, name=name, parameters=drawn)


def _perceptrons() -> Iterator[Model]:
    deep = MLP(inputs=12, widths=(24, 24), activation="tanh")
    mlp = trained(untrained("mlp", FEW_SIGNS, deep, steps=(3, 2)), 120)
    yield mlp
    gamma = torch.full((2,), 0.5).log()
    yield _changed(mlp, "mlp-gamma", writer=lambda writer: {**writer, "log_gamma": gamma})
    yield _changed(mlp, "mlp-no-alpha", writer=lambda writer: _without(writer, "log_alpha"))
    for name, writable in SUBSETS.items():
        yield _writing_only(replace(mlp, name=f"mlp-{name}"), replace(deep, writable=writable))


def _changed(model: Model, name: str, *, reader: Change | None = None, writer: Change | None = None) -> Model:
    old = model.parameters
    new = replace(
        old,
        reader=dict(reader(old.reader)) if reader else old.reader,
        writer=dict(writer(old.writer)) if writer else old.writer,
    )
    return replace(model, name=name, parameters=new)


def _writing_only(model: Model, network: MLP) -> Model:
    """The same weights, fewer of them writable, at the same rates."""
    old, (slow, fast) = model.parameters, network.shapes
    weights = {**old.slow, **old.initial}
    writer = {
        name: value
        for name, value in old.writer.items()
        if not name.startswith("log_rate.") or name.removeprefix("log_rate.") in fast
    }
    new = replace(
        old, slow={name: weights[name] for name in slow}, initial={name: weights[name] for name in fast}, writer=writer
    )
    return replace(model, network=network, parameters=new)


def _faster(writer: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    more = torch.tensor(factor).log()
    return {name: value + more if name.startswith("log_rate.") else value for name, value in writer.items()}


def _once(writer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first writing step alone."""
    return {name: value[:1] if value.dim() else value for name, value in writer.items()}


def _without(writer: Mapping[str, Tensor], left_out: str) -> dict[str, Tensor]:
    return {name: value for name, value in writer.items() if name != left_out}


def _drawn_back(share: float) -> dict[str, Tensor]:
    """A first step down the energy; a second one that only takes back a share of it, by the distance term."""
    writer = initial_writer(2, ("W", "b"), ("energy", "slope", "distance"))
    beta = torch.tensor([1e-12, max(share / (2 * BETA_RATE), 1e-12)]).log()
    rate = torch.full((2,), BETA_RATE).log()
    first = torch.tensor([1.0, 1e-12]).log()
    terms = {"log_energy": first, "log_alpha": first, "log_beta": beta}
    return {**writer, **terms, "log_rate.W": rate, "log_rate.b": rate, "log_clip": torch.tensor(1e6).log()}
