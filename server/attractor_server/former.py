"""Models that memories are of and no folder has any more: retrained under their names, or taken away.

The file of every model that is served goes to the artifact store under its digest, and comes back when it is needed.
"""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from attractor_server.energy.model import SUFFIX, Model, digest_of, load_model
from attractor_server.errors import ModelFileError
from attractor_server.storage.artifacts import MODELS, Artifacts
from attractor_server.storage.journal import Journal

logger = logging.getLogger(__name__)

_DIGEST_LETTERS = 12


def keep(paths: Iterable[Path], artifacts: Artifacts) -> None:
    """Puts the model files into the artifact store, those that are not there yet.

    Raises:
        ModelFileError: one cannot be read.
        StoreFailed: the artifact store cannot be used.
    """
    for path in paths:
        location = _location(digest_of(path))
        if not artifacts.has(location):
            artifacts.put_at(location, path.read_bytes())


def former(
    journal: Journal, artifacts: Artifacts, served: Iterable[Model], device: torch.device | str
) -> Mapping[str, Model]:
    """The models that memories are of beside those that are served, named by name and digest, as far as they are found.

    Raises:
        StoreFailed: the backend or the artifact store cannot be read.
    """
    found: dict[str, Model] = {}
    here = {model.digest for model in served}
    for name, digest in journal.models():
        if digest in here or (content := artifacts.find(_location(digest))) is None:
            continue
        try:
            model = _loaded(content, digest, device)
            found[model.name] = model
        except ModelFileError as error:
            logger.warning("memories of model %s (%s) cannot be used: %s", name, digest, error)
    return found


def _loaded(content: bytes, digest: str, device: torch.device | str) -> Model:
    with tempfile.NamedTemporaryFile(suffix=SUFFIX) as file:
        file.write(content)
        file.flush()
        model = load_model(Path(file.name), device)
    if model.digest != digest:
        raise ModelFileError(f"the artifact store has model {model.digest} in its place")
    return replace(model, name=f"{model.name}@{digest.rpartition(':')[2][:_DIGEST_LETTERS]}")


def _location(digest: str) -> str:
    return f"{MODELS}/{digest.rpartition(':')[2]}{SUFFIX}"
