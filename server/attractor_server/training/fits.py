"""Fit what stands beside a trained model, outside of its digest (`attractor fit`)."""

from dataclasses import replace

from attractor_server.energy.model import Model
from attractor_server.training.datasets import load_dataset
from attractor_server.training.model_lookup import recipe_of
from attractor_server.training.validation import calibrate_own


def fit_beside(model: Model) -> Model:
    """Return the model with its fits made anew, on validation data of its recipe; its digest stays."""
    recipe = recipe_of(model)
    return replace(model, own_calibration=calibrate_own(model, load_dataset(recipe.data.name, "validation"), recipe))
