"""Model files: immutable, and named by their content; what was fitted beside a model is a section of its own."""

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attractor_server.energy.eraser import initial_eraser
from attractor_server.energy.familiarity import WITH_GIVEN, Calibration
from attractor_server.energy.model import Model, calibration_of, tensors_of, transform_of
from attractor_server.energy.networks import EnergyNetwork, network_of
from attractor_server.energy.networks.protocol import Shapes, Tensors
from attractor_server.energy.parameters import TERMS, Parameters, initial_reader, initial_writer, shapes_of
from attractor_server.energy.posterior import pack_posterior, unpack_posterior
from attractor_server.errors import ModelFileError
from attractor_server.fields import KINDS, AudioFormat, Field, Layout

FORMAT = 2

HEADER, FITS = "attractor", "attractor.fits"
"""Sections of a file's metadata: the model's, and what was fitted beside it, with a checksum of its own"""

SUFFIX = ".safetensors"


def save_model(model: Model, path: Path) -> Model:
    """Write the file in one move and return the model with its digest."""
    from safetensors.torch import save_file

    # Copies, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors_of(model).items()}
    header = _header(model)
    header["digest"] = _digest(header, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        draft = Path(folder) / path.name
        sections = {HEADER: json.dumps(header, sort_keys=True), **_pack_fits(model)}
        save_file(tensors, draft, metadata=sections)
        draft.chmod(0o644)  # a server may run as somebody else
        draft.replace(path)
    return replace(model, digest=str(header["digest"]))


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Read a model file.

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
    return replace(_model(path, header, tensors), **_unpack_fits(path, metadata)).to(torch.device(device))


def digest_of(path: Path) -> str:
    """Return the digest that a model file says it has.

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
    fields = [_save_field(field) for field in model.layout.fields]
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


def _pack_fits(model: Model) -> Mapping[str, str]:
    """Return the section of fits; none where nothing was fitted."""
    fits: dict[str, object] = {}
    if model.own_calibration is not None:
        fits["own_calibration"] = model.own_calibration.weights.tolist()
    if model.posterior is not None:
        fits["posterior"] = pack_posterior(model.posterior)
    return {FITS: json.dumps({"fits": fits, "checksum": _checksum(fits)}, sort_keys=True)} if fits else {}


def _unpack_fits(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what was fitted, as fields of the model; nothing for files of before.

    Raises:
        ModelFileError: the section is damaged.
    """
    if FITS not in metadata:
        return {}
    try:
        section = json.loads(metadata[FITS])
        fits, seen = dict(section["fits"]), section["checksum"]
        fitted: dict[str, Any] = {}
        if "own_calibration" in fits:
            fitted["own_calibration"] = Calibration(torch.tensor([float(one) for one in fits["own_calibration"]]))
        if "posterior" in fits:
            fitted["posterior"] = unpack_posterior(fits["posterior"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise ModelFileError(f"{path}: the fits beside its model cannot be read: {error}") from error
    if seen != (found := _checksum(fits)):
        raise ModelFileError(f"{path} is damaged: its fits have checksum {found}, the file says {seen}")
    if "own_calibration" in fitted and (weights := fitted["own_calibration"].weights).shape != (WITH_GIVEN,):
        raise ModelFileError(f"{path}: own_calibration: saw {len(weights)} weights; expected {WITH_GIVEN}")
    return fitted


def _checksum(fits: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(fits, sort_keys=True).encode()).hexdigest()[:16]


def _read_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata[HEADER])
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
            transform=transform_of(tensors),
            calibration=calibration_of(tensors),
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


def _save_field(field: Field) -> dict[str, Any]:
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
    """Refuse tensors that are missing, not asked for, or not of the shape that network, loops and fields ask for."""
    network, parameters = model.network, model.parameters
    asked = list_shapes(network, model.layout, tensors, options)
    found = shapes_of(tensors)
    wrong = [name for name in sorted({*asked, *found}) if asked.get(name) != found.get(name)]
    if wrong:
        faults = (f"{name} has shape {found.get(name)}, expected {asked.get(name)}" for name in wrong)
        raise ValueError("; ".join(faults))
    if not model.steps:
        raise ValueError("no reading steps; expected one or more")
    # Whether the network takes patterns of this size only the network knows.
    network.energy(parameters.slow, parameters.memories(1), model.encode(torch.zeros(1, 1, model.layout.size)))


def _of_format_1(header: Mapping[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Bring a file of format 1 to the newest: no option could be left out, and the energy's weight in writing was 1."""
    options = ["reader.momentum_logit", "writer.log_energy", "writer.log_alpha", "writer.log_beta"]
    if (alpha := tensors.get("writer.log_alpha")) is not None:
        tensors = {**tensors, "writer.log_energy": torch.zeros_like(alpha)}
    return {**header, "options": options}, tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Over the header without its digest, and over name, dtype, shape, bytes of each tensor in the order of names."""
    content = hashlib.sha256(
        json.dumps({key: value for key, value in header.items() if key != "digest"}, sort_keys=True).encode()
    )
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{content.hexdigest()}"


OPTIONS = ("reader.momentum_logit", "reader.log_proximity", *(f"writer.{name}" for name in TERMS.values()))
"""Tensors of the loops that a model may do without"""


def list_shapes(
    network: EnergyNetwork, layout: Layout, tensors: Mapping[str, Tensor], options: Collection[str]
) -> Mapping[str, object]:
    """Return the shape of each tensor by name, with those options; numbers of steps and components are as found."""
    found = Parameters.of(tensors)
    slow, initial = network.shapes
    codes = {field.name: (len(field.alphabet), _width(found, field.name)) for field in layout.fields if field.has_codes}
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
