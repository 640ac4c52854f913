"""Fit what stands beside a trained model, outside of its digest (`attractor fit`)."""

from dataclasses import replace

from attractor_server.energy.model import Model
from attractor_server.training.datasets import load_dataset
from attractor_server.training.model_lookup import recipe_of
from attractor_server.training.posterior import fit_posterior
from attractor_server.training.validation import calibrate_own


def fit_beside(model: Model) -> Model:
    """Return the model with its fits made anew, on data of its recipe; its digest stays."""
    recipe = recipe_of(model)
    training, held_out = (load_dataset(recipe.data.name, split) for split in ("train", "validation"))
    return replace(
        model,
        own_calibration=calibrate_own(model, held_out, recipe),
        posterior=fit_posterior(replace(model, posterior=None), training, held_out, recipe),
    )
