"""Model files by path, or by the name of one that ships."""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import SUFFIX, load_model
from attractor_server.errors import SettingsError
from attractor_server.training.recipe import Recipe

SHIPPED = Path(str(files("attractor_server"))) / "models"


def open_model(name: str) -> Model:
    """Load the model of that file, or the one of that name that ships.

    Raises:
        ModelFileError: the file is no model.
        SettingsError: there is neither.
    """
    for path in (Path(name), SHIPPED / f"{name}{SUFFIX}"):
        if path.is_file():
            return load_model(path)
    known = sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))
    raise SettingsError(f"model: saw {name!r}, which is no file; expected a path, or one of {known}")


def control_file(folder: Path, name: str) -> Path | None:
    """Find the file of the model trained without writes, anywhere in the folder."""
    return next(iter(sorted(folder.rglob(f"{name}-control{SUFFIX}"))), None)


def seed_files(folder: Path, name: str) -> Sequence[Path]:
    """Find files of several seeds of a model, anywhere in the folder; the seed is part of their or their folder's name.

    They are NAME-SEED.safetensors or NAME-SEED/NAME.safetensors, with or without `seed-` before the seed.
    """
    numbered = re.compile(re.escape(name) + r"-(seed-)?\d+")
    return [
        path
        for path in sorted(folder.rglob(f"{name}*{SUFFIX}"))
        if numbered.fullmatch(path.stem) or (path.stem == name and numbered.fullmatch(path.parent.name))
    ]


def recipe_of(model: Model) -> Recipe:
    """Return the recipe that a model's file carries.

    Raises:
        SettingsError: it carries none, or one that this version does not know.
    """
    try:
        return Recipe.model_validate_json(json.dumps(model.record.get("recipe")))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, ("recipe", *fault["loc"])))
        raise SettingsError(
            f"{model.name}: {place}: {fault['msg']}; expected a model trained by this version: train it again"
        ) from error
