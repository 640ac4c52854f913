"""Models of a shard: those that ship, those of a folder, and former ones that only memories refer to, by digest."""

import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import SUFFIX, digest_of, load_model
from attractor_server.errors import ModelFileError, SettingsError, quote
from attractor_server.storage.artifacts import MODELS, Artifacts
from attractor_server.storage.memory_store import SqlMemoryStore

logger = logging.getLogger(__name__)

MODEL_NAME_LIMIT = 128

MODEL_NAME = re.compile(rf"[^/\\@\x00-\x1f\x7f]{{1,{MODEL_NAME_LIMIT}}}")
"""Allowed names of models: files and memories use them"""


def load_models(folder: Path | None, *, device: torch.device | str) -> Mapping[str, Model]:
    """Load the models that ship and those in the folder, by name; the folder's replaces one that ships, with a warning.

    Raises:
        SettingsError: there is no such folder, or no model at all.
        ModelFileError: a file is damaged, or of a newer format.
    """
    models: dict[str, Model] = {}
    for path in model_paths(folder):
        model = load_model(path, device)
        if not MODEL_NAME.fullmatch(model.name):
            raise ModelFileError(
                f"{path.name}: saw a model called {quote(model.name)}; expected 1 to {MODEL_NAME_LIMIT} characters, "
                "none of them '/', '\\', '@' or one that cannot be seen"
            )
        if model.name in models:
            logger.warning("model %r of %s goes before another one of that name", model.name, path)
        models[model.name] = model
    return models


def model_paths(folder: Path | None) -> Sequence[Path]:
    """Return the files of the models that ship, then those in the folder.

    Raises:
        SettingsError: there is no such folder, or no model at all.
    """
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"models: saw {str(folder)!r}, which is no folder; expected one with *{SUFFIX} files")
    shipped = Path(str(files("attractor_server"))) / "models"
    folders = [shipped] if folder is None else [shipped, folder]
    paths = [path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))]
    if not paths:
        raise SettingsError(f"models: saw no *{SUFFIX} file in {', '.join(map(str, folders))}; expected at least one")
    return paths


def device_of(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        SettingsError: this machine has none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device: saw 'cuda', and PyTorch finds no GPU in this process; expected 'cpu'")
    return torch.device(name)


_DIGEST_LETTERS = 12


def archive_models(paths: Iterable[Path], artifacts: Artifacts) -> None:
    """Archive the model files in the artifact store, unless they are there.

    Raises:
        ModelFileError: one cannot be read.
        StoreFailed: the artifact store cannot be used.
    """
    for path in paths:
        location = _location(digest_of(path))
        if not artifacts.has(location):
            artifacts.put_at(location, path.read_bytes())


def load_former_models(
    store: SqlMemoryStore, artifacts: Artifacts, served: Iterable[Model], device: torch.device | str
) -> Mapping[str, Model]:
    """Load models that memories need and no folder has, from the artifact store, named by name and digest.

    Raises:
        StoreFailed: the backend or the artifact store cannot be read.
    """
    found: dict[str, Model] = {}
    here = {model.digest for model in served}
    for name, digest in store.models():
        if digest in here or (content := artifacts.find(_location(digest))) is None:
            continue
        try:
            model = _load(content, digest, device)
            found[model.name] = model
        except ModelFileError as error:
            logger.warning("memories of model %s (%s) cannot be used: %s", name, digest, error)
    return found


def _load(content: bytes, digest: str, device: torch.device | str) -> Model:
    with tempfile.NamedTemporaryFile(suffix=SUFFIX) as file:
        file.write(content)
        file.flush()
        model = load_model(Path(file.name), device)
    if model.digest != digest:
        raise ModelFileError(f"the artifact store has model {model.digest} in its place")
    return replace(model, name=f"{model.name}@{digest.rpartition(':')[2][:_DIGEST_LETTERS]}")


def _location(digest: str) -> str:
    return f"{MODELS}/{digest.rpartition(':')[2]}{SUFFIX}"


_HEAD = ("model", "fields", "network", "capacity", "kB a memory", "at capacity")


def table_of(models: Iterable[Model]) -> str:
    """Return a table of models as text: a line of heads, and a line for each model."""
    rows = [_HEAD, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(model: Model) -> tuple[str, ...]:
    fields = ", ".join(f"{field.name} {'×'.join(map(str, field.shape))}" for field in model.layout.fields)
    kilobytes = f"{model.page_bytes / 1000:,.1f}"
    return model.name, fields, model.network.kind, str(model.capacity), kilobytes, _format_figure(model.record)


def _format_figure(record: Mapping[str, object]) -> str:
    rated = record.get("rated")
    if not isinstance(rated, Mapping):
        return "not stated"
    return f"{str(rated['metric']).replace('_', ' ')} {rated['value']:.4g} ({rated['cue']})"
