"""Model files to be judged, by path or by the name of one that ships."""

import json
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from attractor_server.energy.model import SUFFIX, Model, load_model
from attractor_server.errors import SettingsError
from attractor_server.training.recipe import Recipe

SHIPPED = Path(str(files("attractor_server"))) / "models"


def open_model(name: str) -> Model:
    """The model of that file, or the one of that name that ships.

    Raises:
        ModelFileError: the file is no model.
        SettingsError: there is neither.
    """
    for path in (Path(name), SHIPPED / f"{name}{SUFFIX}"):
        if path.is_file():
            return load_model(path)
    known = sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))
    raise SettingsError(f"model: saw {name!r}, which is no file; expected a path, or one of {known}")


def recipe_of(model: Model) -> Recipe:
    """The recipe that a model's file carries.

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
