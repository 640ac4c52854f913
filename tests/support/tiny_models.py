"""Small models for tests, written to files: they remember, and cost nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_server.energy.encoding import Encoding
from attractor_server.energy.eraser import initial_eraser
from attractor_server.energy.familiarity import Calibration
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import save_model
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.energy.parameters import Parameters, initial_reader, initial_writer
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.fields import AudioFormat, Field, Layout

Images = NDArray[np.float32]
IMAGE = Field(name="image", kind="image", shape=(4, 4), minimum=-4.0, maximum=5.0)
KEY = Field(name="key", kind="vector", shape=(8,))
CALIBRATION = (-1.0, -2.0, 0.5)
VALUE = Field(name="value", kind="vector", shape=(6,))
SOUND = Field(
    name="sound",
    kind="audio",
    shape=(4, 6),
    audio=AudioFormat(sample_rate_hz=8000, window=256, hop=128, mels=6, low_hz=62.5, high_hz=3800.0),
)
WORD = Field(name="word", kind="text", shape=(6,), alphabet=" abcde")


def able_model(name: str, *fields: Field) -> Model:
    """A model that can do all that one may be able to.

    It erases: what writing did along its energy gradient is taken back, and a little more. It is calibrated, to odds of
    exp(−1 − 2·ΔE + ½·log(1 + stored)). It pulls, less at each step.
    """
    plain = tiny_model(name, *fields)
    eraser = initial_eraser(2, plain.parameters.initial)
    moves = {key: torch.full((2,), -0.2) for key in eraser if key.startswith("energy.")}
    reader = {**plain.parameters.reader, "log_proximity": torch.tensor([0.5, 0.4, 0.3, 0.2]).log()}
    return replace(
        plain,
        parameters=replace(plain.parameters, reader=reader, eraser={**eraser, **moves}),
        calibration=Calibration(torch.tensor(CALIBRATION)),
    )


def tiny_model(name: str, *fields: Field, features: int = 12, seed: int = 0) -> Model:
    """A model with random features; storing lowers the energy of what is stored."""
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(fields)
    codes = {field.name: torch.eye(len(field.alphabet)) for field in fields if field.alphabet}
    entries = Encoding(layout=layout, codes=codes).size
    network = Quadratic(inputs=entries, features=features)
    initial = {"W": torch.zeros(features, features), "b": torch.zeros(features)}
    slow = {
        "A": torch.randn(entries, features, generator=generator) / entries**0.5,
        "a0": torch.zeros(features),
        "log_q": torch.zeros(entries),
        "qb": torch.zeros(entries),
    }
    return Model(
        name=name,
        layout=layout,
        network=network,
        parameters=Parameters(
            slow=slow, initial=initial, reader=initial_reader(4), writer=initial_writer(2, initial), codes=codes
        ),
        transform=Transform(scale=torch.full((entries,), 2.0), shift=torch.full((entries,), -1.0)),
        capacity=8,
        record={"made": "for tests"},
    )


def whitened_model(name: str, *fields: Field, left_out: int = 3) -> Model:
    """The same behind a whitening that leaves out some of the directions."""
    size = Layout(fields).size
    entries = size - left_out
    plain = tiny_model(name, *fields)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(2)))
    whitening = Whitening(components=basis[:, :entries].contiguous(), spread=torch.linspace(2.0, 0.5, entries))
    slow = {key: value[:entries] if len(value) == size else value for key, value in plain.parameters.slow.items()}
    return replace(
        plain,
        network=Quadratic(inputs=entries, features=12),
        parameters=replace(plain.parameters, slow=slow),
        transform=replace(plain.transform, whitening=whitening),
    )


def write_models(folder: Path, *, seed: int = 0) -> Path:
    """Files of models: `tiny` with one image field, `pair` with two vectors, `note` with a text and a vector.

    `sound` has log-mel frames; `able` has the field of `tiny`, and can do all that a model may be able to. `seed` makes
    another `tiny`.
    """
    save_model(tiny_model("tiny", IMAGE, seed=seed), folder / "tiny.safetensors")
    save_model(tiny_model("pair", KEY, VALUE, seed=1), folder / "pair.safetensors")
    save_model(tiny_model("note", WORD, KEY, features=44), folder / "note.safetensors")
    save_model(tiny_model("sound", SOUND), folder / "sound.safetensors")
    save_model(able_model("able", IMAGE), folder / "able.safetensors")
    return folder


def images(count: int, seed: int = 0) -> Images:
    """Random patterns for the models of one image field."""
    return np.random.default_rng(seed).random((count, *IMAGE.shape), dtype=np.float32)
