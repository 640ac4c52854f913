"""Fit a vector model to the embeddings of another source, without meta-training (`attractor adapt`).

The network has learned to store and complete entries with a given profile of deviations. So another source works as
well as its principal components do, each scaled to the deviation that its place had in training. A profile for which
cues of many kinds are read better is near that one: where a mixture of cues is asked for, profiles around it are tried.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Generator, Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.transform import Transform, Whitening
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import Dataset
from attractor_server.training.datasets.drifts import measure_drifts
from attractor_server.training.distortions import distort
from attractor_server.training.metrics import HIGHER_IS_BETTER
from attractor_server.training.model_lookup import recipe_of
from attractor_server.training.posterior import fit_posterior
from attractor_server.training.recipe import CueTable, Recipe
from attractor_server.training.validation import (
    Task,
    calibrate,
    calibrate_own,
    recall,
    score,
    validate,
    write_memories,
)

SAMPLES = "samples of another source"
"""Name of the data set in the recipe of an adapted model"""

FLOOR = 0.5
"""Share of the median: entries with next to no deviation in the training data would magnify little errors"""

FLOORS, POWERS = (0.25, 0.5, 1.0), (1.0, 1.2, 1.4)
"""Floors and powers of the profile that are tried for a mixture of cues"""

HARM = 1.01
"""Largest share of the plain profile's error that another may have, of any kind of cue"""

TOLD, DRIFTING, CLEAN = 0.5, 0.6, 0.2
"""Of a mixture: the most of a kind's masks that are told, and drifting and clean cues as shares of all others"""

MEMORIES = 8

_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Cues that a model is adapted to beside those of its recipe: with masks that are not told, and whole patterns."""

    others: Tensor | None = None
    """Other wordings (m, values) of the first m samples, as they will be asked for"""


def adapt_model(model: Model, samples: Tensor, *, name: str = "", mixture: Mixture | None = None) -> Model:
    """Return the model with transform, calibrations and posterior fitted to samples (n, values), and all else as it is.

    With a mixture, the transform is the one that is best for all its kinds of cue, and worse for none.

    Raises:
        SettingsError: the model is not one of vectors behind a whitening, or the samples do not fit it.
    """
    recipe, whitening = recipe_of(model), _whitening_of(model)
    samples = _check_samples(model, samples.float())
    drifts = None if mixture is None else _measure_drifts(samples, mixture)
    power = recipe.input.whitening
    trained = whitening.spread ** (1 / power)  # deviations of the components of the training data
    profile = trained ** (1 - power)
    transform, found = _fit_transform(samples, _raise_to_floor(profile, FLOOR))
    scale = float((found.square().sum() / trained.square().sum()).sqrt())
    recipe = _adapt_recipe(recipe, name or model.name, scale)
    source = Dataset(model.layout, samples, torch.arange(len(samples)), drifts)
    fitted = replace(model, name=recipe.name, transform=transform, digest="")
    fitted = replace(fitted, calibration=None, own_calibration=None, posterior=None)
    if mixture is not None:
        recipe = recipe.model_copy(update={"cues": _mix(recipe.cues, drifting=drifts is not None)})
        fitted = _choose_transform(fitted, source, recipe, profile)
    return replace(
        fitted,
        calibration=calibrate(fitted, source, recipe),
        own_calibration=calibrate_own(fitted, source, recipe),
        posterior=fit_posterior(fitted, *_halves(source), recipe),
        record=_record(model, fitted, source, recipe),
    )


def _halves(source: Dataset) -> tuple[Dataset, Dataset]:
    """Return every other sample, and those between them."""
    parts = source.patterns[::2], source.patterns[1::2]
    first, second = (replace(source, patterns=part, classes=torch.arange(len(part))) for part in parts)
    return first, second


def _measure_drifts(samples: Tensor, mixture: Mixture) -> Tensor | None:
    if (others := mixture.others) is None:
        return None
    if others.dim() != 2 or others.shape[1] != samples.shape[1] or not 0 < len(others) <= len(samples):
        expected = f"(m, {samples.shape[1]}), a row for each of the first m of {len(samples)} samples"
        raise SettingsError(f"others: saw shape {tuple(others.shape)}; expected {expected}")
    if not bool(others.isfinite().all()):
        raise SettingsError("others: saw a value that is not finite; expected finite numbers alone")
    return measure_drifts(samples[: len(others)], others.float())


def _mix(cues: Sequence[CueTable], *, drifting: bool) -> Sequence[CueTable]:
    """Return cues with fewer of their masks told, beside drifting and clean ones."""
    given = [cue.model_copy(update={"told": min(cue.told, TOLD)}) for cue in cues if cue.kind not in ("clean", "drift")]
    shares = sum(cue.share for cue in given)
    others = [CueTable(kind="drift", share=DRIFTING * shares)] if drifting else []
    return [*given, *others, CueTable(kind="clean", share=CLEAN * shares)]


def _choose_transform(model: Model, source: Dataset, recipe: Recipe, profile: Tensor) -> Model:
    """Return the model with the profile of deviations whose errors are least, of those that are worse for no kind.

    An error is compared with that of the same cues under the model's own profile.
    """
    own, best = _measure_errors(model, source, recipe), (1.0, model)
    for floor, power in product(FLOORS, POWERS):
        if (floor, power) != (FLOOR, 1.0):
            tried = _raise_to_floor(profile, floor)
            tried = tried**power * (tried.log().mean() * (1 - power)).exp()  # as large as it was, by the geometric mean
            other = replace(model, transform=_fit_transform(source.patterns, tried)[0])
            ratios = _measure_errors(other, source, recipe) / own
            if float(ratios.max()) <= HARM and float(ratios.mean()) < best[0]:
                best = float(ratios.mean()), other
    return best[1]


def _measure_errors(model: Model, source: Dataset, recipe: Recipe) -> Tensor:
    """Return the error of each kind of cue in the same memories at rated capacity, with and without their masks."""
    generator = Generator().manual_seed(0)
    patterns = source.sample(MEMORIES, recipe.capacity, generator)
    fast = write_memories(model, patterns, model.write_chunk)
    errors = []
    for cue in _tell_apart(recipe.cues):
        cues = distort(patterns, source.layout, [cue], generator, drifts=source.drifts)
        value = score(model, recipe.data, recall(model, fast, cues), patterns)
        errors.append(1 - value if recipe.data.metric in HIGHER_IS_BETTER else value)
    return torch.tensor(errors).clamp(min=_LEAST)


def _tell_apart(cues: Sequence[CueTable]) -> Iterator[CueTable]:
    """Yield each cue without its mask, and where masks are told in some, with it."""
    for cue in cues:
        yield from (cue.model_copy(update={"told": told}) for told in ((0.0, 1.0) if cue.told else (0.0,)))


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


def _raise_to_floor(profile: Tensor, floor: float) -> Tensor:
    return profile.clamp(min=floor * float(profile.median()))


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
