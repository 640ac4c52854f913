"""Models: what meta-training yields, in one immutable file that its content names.

The file is safetensors. Its metadata entry `attractor` is a JSON object (see `_header`); its tensors are the
parameters, under `part.name`, and the input transform.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attractor_server.energy.calibration import Calibration
from attractor_server.energy.encoding import Encoding
from attractor_server.energy.eraser import erasing_steps
from attractor_server.energy.expected import OPTIONS, expected_shapes
from attractor_server.energy.networks import EnergyNetwork, network_of
from attractor_server.energy.networks.protocol import Tensors
from attractor_server.energy.parameters import Parameters, shapes_of
from attractor_server.energy.transform import Hold, Pull, Transform
from attractor_server.errors import ModelFileError
from attractor_server.fields import KINDS, AudioFormat, Field, Layout

FORMAT = 2
SUFFIX = ".safetensors"
CALIBRATION = "calibration.weights"
TRANSFORM = "transform."
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

    @property
    def steps(self) -> int:
        """Reading steps it was trained with (K)."""
        return self.parameters.reading_steps

    @property
    def together(self) -> int:
        """Patterns to be written in one loop: those of a whole page where it was trained mostly for that, else 8.

        Patterns that are much alike make large batches overshoot: a mean of like gradients is as large as each.
        """
        recipe = self.record.get("recipe")
        episodes = recipe.get("episodes") if isinstance(recipe, Mapping) else None
        whole = episodes.get("whole_share", 0.0) if isinstance(episodes, Mapping) else 0.0
        return 4 * self.capacity if whole >= WHOLE_SHARE else CHUNK

    @property
    def page_bytes(self) -> int:
        """Bytes of one memory's fast weights."""
        return sum(tensor.nbytes for tensor in self.parameters.initial.values())

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.transform.scale.device

    @property
    def erases(self) -> bool:
        """Whether patterns can be erased again."""
        return erasing_steps(self.parameters) > 0

    @property
    def pulls(self) -> bool:
        """Whether known entries can be pulled towards the cue, where they are not held."""
        return "log_proximity" in self.parameters.reader

    @property
    def encoding(self) -> Encoding:
        """What stands for the values of its fields."""
        return Encoding(layout=self.layout, codes=self.parameters.codes)

    def encode(self, values: Tensor) -> Tensor:
        """User units (…, values), missing ones NaN, to network units (…, entries)."""
        return self.transform.encode(self.encoding.encode(values))

    def decode(self, x: Tensor) -> Tensor:
        """Network units to user units (…, values); an image is dark at 0 and bright at 1, and never beyond."""
        values = self.encoding.decode(self.transform.decode(x))
        for field, span in self.layout.spans:
            if field.kind == "image":
                values[..., span] = values[..., span].clamp(0, 1)
        return values

    def hold(self, values: Tensor, known: Tensor) -> Hold:
        """What puts known values back into any x; both (…, values), `known` bool."""
        return self.transform.hold(self.encoding.encode(values), self.encoding.spread(known))

    def pull(self, values: Tensor, known: Tensor) -> Pull:
        """What the proximity term descends by towards known values; both (…, values), `known` bool."""
        return self.transform.pull(self.encoding.encode(values), self.encoding.spread(known))

    def to(self, device: torch.device) -> "Model":
        """The same model with its tensors on that device."""
        tensors = {name: tensor.to(device) for name, tensor in _tensors(self).items()}
        return replace(
            self,
            parameters=Parameters.of(tensors),
            transform=_transform(tensors),
            calibration=_calibration(tensors),
        )


def save_model(model: Model, path: Path) -> Model:
    """Writes the file in one move and returns the model with its digest."""
    from safetensors.torch import save_file

    # Copies, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors(model).items()}
    header = _header(model)
    header["digest"] = _digest(header, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        draft = Path(folder) / path.name
        save_file(tensors, draft, metadata={"attractor": json.dumps(header, sort_keys=True)})
        draft.chmod(0o644)  # a server may run as somebody else
        draft.replace(path)
    return replace(model, digest=str(header["digest"]))


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Reads a model file.

    Raises:
        ModelFileError: it cannot be read, is damaged, or is of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path} cannot be read as a model file: {error}") from error
    header = _read_header(path, metadata)
    if header["digest"] != (seen := _digest(header, tensors)):
        raise ModelFileError(f"{path} is damaged: its content has digest {seen}, the file says {header['digest']}")
    if header["format"] == 1:
        header, tensors = _of_format_1(header, tensors)
    return _model(path, header, tensors).to(torch.device(device))


def digest_of(path: Path) -> str:
    """The digest that a model file says it has.

    Raises:
        ModelFileError: it cannot be read, or is of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path} cannot be read as a model file: {error}") from error
    return str(_read_header(path, metadata)["digest"])


def _header(model: Model) -> dict[str, Any]:
    fields = [_saved(field) for field in model.layout.fields]
    header = {
        "format": FORMAT,
        "name": model.name,
        "network": {"kind": model.network.kind, **model.network.config},
        "options": [name for name in OPTIONS if name in model.parameters.flat()],
        "fields": fields,
        "capacity": model.capacity,
        "record": dict(model.record),
    }
    # The digest is over what a reader of the file will see: JSON turns keys that are numbers into strings.
    return dict(json.loads(json.dumps(header)))


def _read_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata["attractor"])
        number = header["format"] = int(header["format"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path} is a safetensors file, but not one of a model: no readable header") from error
    if number > FORMAT:
        raise ModelFileError(
            f"{path} has format {number}; this version reads up to {FORMAT}: upgrade, or save the model with this one"
        )
    if not isinstance(header.get("digest"), str):
        raise ModelFileError(f"{path} has no digest in its header")
    return dict(header)


def _model(path: Path, header: Mapping[str, Any], tensors: Tensors) -> Model:
    try:
        model = Model(
            name=str(header["name"]),
            layout=Layout(tuple(_field(field) for field in header["fields"])),
            network=network_of(header["network"]),
            parameters=Parameters.of(tensors),
            transform=_transform(tensors),
            calibration=_calibration(tensors),
            capacity=int(header["capacity"]),
            record=dict(header["record"]),
            digest=header["digest"],
        )
        _check(model, tensors, header["options"])
    except KeyError as error:
        raise ModelFileError(f"{path} lacks a part that its format asks for: {error}") from error
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ModelFileError(f"{path} has a part that cannot be meant: {error}") from error
    return model


def _saved(field: Field) -> dict[str, Any]:
    saved: dict[str, Any] = {
        "name": field.name,
        "kind": field.kind,
        "shape": list(field.shape),
        "range": [str(field.minimum), str(field.maximum)],
    }
    if field.alphabet:
        saved["alphabet"] = field.alphabet
    if field.audio is not None:
        saved["audio"] = asdict(field.audio)
    return saved


def _field(saved: Mapping[str, Any]) -> Field:
    if saved["kind"] not in KINDS:
        raise ValueError(f"field kind {saved['kind']!r}; this version knows {', '.join(KINDS)}")
    shape = tuple(map(int, saved["shape"]))
    if any(length < 1 for length in shape):
        raise ValueError(f"field shape {shape}; expected lengths from 1 on")
    minimum, maximum = map(float, saved["range"])
    return Field(
        name=str(saved["name"]),
        kind=saved["kind"],
        shape=shape,
        minimum=minimum,
        maximum=maximum,
        alphabet=str(saved.get("alphabet", "")),
        audio=AudioFormat(**saved["audio"]) if "audio" in saved else None,
    )


def _check(model: Model, tensors: Tensors, options: Collection[str]) -> None:
    """Refuses tensors that are missing, not asked for, or not of the shape that network, loops and fields ask for."""
    network, parameters = model.network, model.parameters
    asked = expected_shapes(network, model.layout, tensors, options)
    found = shapes_of(tensors)
    wrong = [name for name in sorted({*asked, *found}) if asked.get(name) != found.get(name)]
    if wrong:
        faults = (f"{name} has shape {found.get(name)}, expected {asked.get(name)}" for name in wrong)
        raise ValueError("; ".join(faults))
    if not model.steps:
        raise ValueError("no reading steps; expected one or more")
    # Whether the network takes patterns of this size only the network knows.
    network.energy(parameters.slow, parameters.memories(1), model.encode(torch.zeros(1, 1, model.layout.size)))


def _tensors(model: Model) -> Tensors:
    transform = {f"{TRANSFORM}{name}": tensor for name, tensor in model.transform.tensors.items()}
    calibration = {} if model.calibration is None else {CALIBRATION: model.calibration.weights}
    return {**model.parameters.flat(), **transform, **calibration}


def _calibration(tensors: Mapping[str, Tensor]) -> Calibration | None:
    return Calibration(tensors[CALIBRATION]) if CALIBRATION in tensors else None


def _of_format_1(header: Mapping[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """As the newest format has it: then no option could be left out, and the energy's weight in writing was 1."""
    options = ["reader.momentum_logit", "writer.log_energy", "writer.log_alpha", "writer.log_beta"]
    if (alpha := tensors.get("writer.log_alpha")) is not None:
        tensors = {**tensors, "writer.log_energy": torch.zeros_like(alpha)}
    return {**header, "options": options}, tensors


def _transform(tensors: Mapping[str, Tensor]) -> Transform:
    parts = {name.removeprefix(TRANSFORM): value for name, value in tensors.items() if name.startswith(TRANSFORM)}
    try:
        return Transform.of(parts)
    except KeyError as error:
        raise KeyError(f"{TRANSFORM}{error.args[0]}") from error


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Over the header without its digest, and over name, dtype, shape, bytes of each tensor in the order of names."""
    content = hashlib.sha256(
        json.dumps({key: value for key, value in header.items() if key != "digest"}, sort_keys=True).encode()
    )
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{content.hexdigest()}"
