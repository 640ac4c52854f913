"""Fit a vector model to the embeddings of another source, without meta-training (`attractor adapt`).

The network has learned to store and complete entries with a given profile of deviations. So another source works as
well as its principal components do, each scaled to the deviation that its place had in training.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import Dataset
from attractor_server.training.model_lookup import recipe_of
from attractor_server.training.recipe import Recipe
from attractor_server.training.validation import Task, calibrate, calibrate_own, validate

SAMPLES = "samples of another source"
"""Name of the data set in the recipe of an adapted model"""

FLOOR = 0.5
"""Share of the median: entries with next to no deviation in the training data would magnify little errors"""

_LEAST = 1e-6


def adapt_model(model: Model, samples: Tensor, *, name: str = "") -> Model:
    """Return the model with transform and calibrations fitted to the samples (n, values), and all else as it is.

    Raises:
        SettingsError: the model is not one of vectors behind a whitening, or the samples do not fit it.
    """
    recipe, whitening = recipe_of(model), _whitening_of(model)
    samples = _check_samples(model, samples.float())
    power = recipe.input.whitening
    trained = whitening.spread ** (1 / power)  # deviations of the components of the training data
    profile = trained ** (1 - power)
    transform, found = _fit_transform(samples, profile.clamp(min=FLOOR * float(profile.median())))
    scale = float((found.square().sum() / trained.square().sum()).sqrt())
    recipe = _adapt_recipe(recipe, name or model.name, scale)
    source = Dataset(model.layout, samples, torch.arange(len(samples)))
    fitted = replace(model, name=recipe.name, transform=transform, calibration=None, own_calibration=None, digest="")
    return replace(
        fitted,
        calibration=calibrate(fitted, source, recipe),
        own_calibration=calibrate_own(fitted, source, recipe),
        record=_record(model, fitted, source, recipe),
    )


def _whitening_of(model: Model) -> Whitening:
    kinds = [field.kind for field in model.layout.fields]
    refits = all(field.traits.refits for field in model.layout.fields)
    if model.transform.whitening is None or not refits or not recipe_of(model).input.whitening:
        raise SettingsError(
            f"model: saw {model.name} with fields of kind {', '.join(kinds)}; expected a model of vectors that was "
            "trained behind a whitening, as embedding-384"
        )
    return model.transform.whitening


def _check_samples(model: Model, samples: Tensor) -> Tensor:
    width, entries = model.layout.size, model.transform.encode(torch.zeros(1, model.layout.size)).shape[1]
    least = max(entries + 1, 2 * model.capacity)
    if samples.dim() != 2 or samples.shape[1] != width:
        raise SettingsError(f"samples: saw shape {tuple(samples.shape)}; expected (n, {width}) for {model.name}")
    if len(samples) < least:
        raise SettingsError(f"samples: saw {len(samples)} of them; expected at least {least}, better some thousands")
    finite = samples.isfinite().all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise SettingsError(f"samples: saw a value that is not finite in row {row}; expected finite numbers alone")
    if float(samples.std(0).max()) < _LEAST:
        raise SettingsError("samples: saw the same vector in every row; expected vectors that differ")
    return samples


def _fit_transform(samples: Tensor, profile: Tensor) -> tuple[Transform, Tensor]:
    """Return a transform that scales the leading components of the samples to this profile, and their deviations."""
    mean = samples.mean(0)
    _, singular, vectors = torch.linalg.svd(samples - mean, full_matrices=False)
    entries = len(profile)
    deviations = (singular[:entries] / len(samples) ** 0.5).clamp(min=_LEAST)
    whitening = Whitening(components=vectors[:entries].T.contiguous(), spread=deviations / profile)
    return Transform(scale=torch.ones_like(mean), shift=-mean, whitening=whitening), deviations


def _adapt_recipe(recipe: Recipe, name: str, scale: float) -> Recipe:
    """Return the recipe with noise as loud beside the samples as it was beside what the model was trained on."""
    cues = [
        cue.model_copy(update={"amount": cue.amount * scale}) if cue.kind == "noise" else cue for cue in recipe.cues
    ]
    data = recipe.data.model_copy(update={"name": SAMPLES})
    return recipe.model_copy(update={"name": name, "cues": cues, "data": data})


def _record(model: Model, fitted: Model, source: Dataset, recipe: Recipe) -> dict[str, object]:
    """Return the model's record with the source and target of the adaptation, and the rated error on the samples."""
    task = Task(data=recipe.data, cues=[recipe.cues[0]], count=recipe.capacity)
    figures = validate(fitted, source, task)
    value = figures[f"{recipe.data.metric}_recalled"]
    return {
        **model.record,
        "recipe": recipe.as_record(),
        "rated": {"metric": recipe.data.metric, "cue": recipe.cues[0].label, "value": value},
        "validation": {f"{recipe.cues[0].label}, chunks of 1": figures},
        "adapted": {
            "from": {"name": model.name, "digest": model.digest},
            "to": {"samples": len(source.patterns), "deviation": float(source.patterns.var(0).sum().sqrt())},
        },
    }
