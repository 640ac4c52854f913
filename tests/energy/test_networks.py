"""The networks of several layers: what can be written, how they come from a file, and where they start."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.episodes import draw, errors, expected, gradients, outcome
from tests.support.model_files import assert_same, tiny
from tests.support.network_cases import SMALL, Case, deep_cases
from torch import Generator, Tensor

from attractor_server.energy.model_file import load_model, save_model
from attractor_server.energy.networks import NETWORKS, TrainableNetwork, network_of
from attractor_server.energy.networks.convolutional import Convolutional
from attractor_server.energy.networks.mlp import MLP
from attractor_server.energy.networks.protocol import Start
from attractor_server.energy.networks.recurrent import Recurrent

DEEP = deep_cases(inputs=4, features=3)
HEAD = {"head.W", "head.b"}
GATES = {f"{layer}.{name}" for layer in ("forward", "backward") for name in ("input", "state", "bias")}
LAYERS = {"layer1.A", "layer1.a", "layer2.A", "layer2.a", "head.w"}
EVERY_SET = [
    ("mlp", None, LAYERS),
    ("mlp", ("head",), {"head.w"}),
    ("mlp", ("layer2", "head"), LAYERS - {"layer1.A", "layer1.a"}),
    ("convolutional", ("head",), HEAD),
    ("convolutional", ("conv", "head"), HEAD | {"conv.kernel", "conv.bias"}),
    ("convolutional", ("block1.kernel", "keys"), {"block1.kernel", "keys.A", "keys.H", "keys.a0"}),
    ("recurrent", ("head",), HEAD),
    ("recurrent", ("forward", "backward", "head"), HEAD | GATES),
    ("recurrent", ("backward.state", "head.W"), {"backward.state", "head.W"}),
]
every_set = pytest.mark.parametrize(("kind", "writable", "names"), EVERY_SET)
every_network = pytest.mark.parametrize("network", [case.network for case in DEEP.values()], ids=DEEP.keys())


def writing(kind: str, writable: tuple[str, ...] | None) -> Case:
    """The case of that kind with another writable set, so that its energy is curved in what is written."""
    network = DEEP[kind].network
    assert isinstance(network, MLP | Convolutional | Recurrent)
    return replace(DEEP[kind], network=replace(network, writable=writable), curved=True)  # type: ignore[arg-type]


@every_set
def test_what_is_named_is_written_and_nothing_else(kind: str, writable: tuple[str, ...], names: set[str]) -> None:
    case = writing(kind, writable)
    episode = draw(case)
    before = {name: value.clone() for name, value in episode.leaves.items()}
    fast = episode.write(case.network)
    assert fast.keys() == names
    assert [name for name, value in fast.items() if torch.equal(value, episode.fast[name])] == []
    assert all(torch.equal(value, before[name]) for name, value in episode.leaves.items())
    slow, initial = case.network.shapes
    assert initial.keys() == names
    assert {**slow, **initial} == {**DEEP[kind].network.shapes[0], **DEEP[kind].network.shapes[1]}


def test_unless_told_otherwise_the_highest_layer_is_written_and_in_a_perceptron_all_but_the_bowl() -> None:
    assert {kind: set(case.network.shapes[1]) for kind, case in DEEP.items()} == {
        "mlp": LAYERS,
        "convolutional": HEAD,
        "recurrent": HEAD,
    }


@pytest.mark.parametrize(
    ("kind", "writable"),
    [
        ("mlp", ("layer1", "layer2", "head")),
        ("convolutional", ("conv", "block1", "head")),
        ("recurrent", ("forward", "backward", "head")),
    ],
)
def test_lower_layers_are_written_as_the_reference_writes_them(kind: str, writable: tuple[str, ...]) -> None:
    case = writing(kind, writable)
    episode = draw(case).tracked()
    assert "writer.log_gamma" in episode.leaves
    found, wanted = outcome(case.network, episode), expected(case.looped, episode)
    assert max(errors(found.parts, wanted.parts).values()) < 1e-11
    assert max(errors(gradients(found, episode), gradients(wanted, episode)).values()) < 1e-11


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize(
    ("writable", "message"),
    [
        (("head", "layer9"), "writable 'layer9'; expected some of .*head"),
        (("head.W.x",), "writable 'head.W.x'"),
        ((), "not none"),
    ],
)
def test_a_writable_set_that_cannot_be_meant_is_refused(kind: str, writable: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        writing(kind, writable)


@pytest.mark.parametrize("kind", DEEP)
def test_not_all_of_a_network_can_be_written(kind: str) -> None:
    slow, fast = DEEP[kind].network.shapes
    with pytest.raises(ValueError, match="not all"):
        writing(kind, (*slow, *fast))


def test_a_network_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation 'relu'; expected one of \['softplus', 'tanh'\]"):
        MLP(inputs=4, widths=(3,), activation="relu")
    with pytest.raises(ValueError, match="one hidden layer or more"):
        MLP(inputs=4, widths=())
    with pytest.raises(ValueError, match=r"image \[3, 3\]; expected channels, height and width"):
        Convolutional(inputs=4, image=(3, 3), channels=2, blocks=1, keys=3, values=3)
    with pytest.raises(ValueError, match="one frame or more"):
        Recurrent(inputs=4, steps=0, width=2, hidden=2, keys=3, values=3)


@every_set
def test_a_network_comes_back_from_the_json_of_its_config(
    kind: str, writable: tuple[str, ...], names: set[str]
) -> None:
    network = writing(kind, writable).network
    found = network_of(json.loads(json.dumps({"kind": network.kind, **network.config})))
    assert found == network
    assert found.shapes[1].keys() == names
    assert isinstance(found, NETWORKS[kind])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DEEP)
def test_a_model_of_each_kind_goes_through_a_file(kind: str, tmp_path: Path) -> None:
    model = tiny(network=DEEP[kind].network, parameters=draw(DEEP[kind]).to(torch.float32).parameters)
    saved = save_model(model, tmp_path / "m.safetensors")
    assert_same(load_model(tmp_path / "m.safetensors"), saved)


def test_the_activation_of_a_perceptron_is_the_one_asked_for() -> None:
    episode, tanh = draw(SMALL["mlp"]), MLP(inputs=4, widths=(3, 4), activation="tanh")
    slow = {name: torch.zeros_like(value) for name, value in episode.parameters.slow.items()}
    weights, x = {name: value[0] for name, value in episode.fast.items()}, episode.patterns[0]
    one = torch.tanh(x @ weights["layer1.A"] + weights["layer1.a"])
    two = torch.tanh(one @ weights["layer2.A"] + weights["layer2.a"])
    wanted = 0.5 * x.square().sum(-1) + two @ weights["head.w"]
    assert torch.allclose(tanh.energy(slow, episode.fast, episode.patterns)[0], wanted, atol=1e-12)


@every_network
def test_a_start_has_every_weight_and_comes_from_its_generator(network: TrainableNetwork) -> None:
    slow, fast = network.shapes
    lift = torch.randn(slow.get("lift", (4, 6)), generator=Generator().manual_seed(5))

    def at(seed: int) -> dict[str, Tensor]:
        return network.start(Start(deviation=torch.ones(4), lift=lift, generator=Generator().manual_seed(seed)))

    weights = at(0)
    assert {name: tuple(value.shape) for name, value in weights.items()} == {**slow, **fast}
    assert all(torch.equal(value, weights[name]) for name, value in at(0).items())
    assert not all(torch.equal(value, weights[name]) for name, value in at(1).items())
    assert "lift" not in weights or torch.equal(weights["lift"], lift)


@pytest.mark.parametrize("kind", ["convolutional", "recurrent"])
def test_a_network_does_not_start_on_values_that_it_was_not_made_for(kind: str) -> None:
    network = DEEP[kind].network
    assert isinstance(network, TrainableNetwork)
    with pytest.raises(ValueError, match=r"\(entries, values\) are \(4, 5\); the network was made for \(4, "):
        network.start(Start(deviation=torch.ones(4), lift=torch.eye(4, 5), generator=Generator()))
