"""Recipes: TOML files that describe completely how a model is made."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from attractor_server.errors import SettingsError, quote

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(gt=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Metric: TypeAlias = Literal["mse", "bit_error", "cosine", "characters"]
CueKind: TypeAlias = Literal[
    "block", "rows", "noise", "shift", "contrast", "flips", "missing", "frames", "field", "drift", "clean"
]
Term: TypeAlias = Literal["energy", "slope", "parameter_slope", "distance"]


class Table(BaseModel):
    """Table of a recipe, without unknown entries, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataTable(Table):
    """`[data]`: the training data, and the metric."""

    name: str
    metric: Metric
    field: str = ""
    """The field that is judged; all of them without it"""
    warped: Share = 0.0
    """Share of an episode's memories whose images are mirrored, turned, sheared and recoloured, each memory's alike"""
    alike: Share = 0.0
    """Share of an episode's memories whose patterns are drawn towards one of them, from not at all to three quarters"""


class InputTable(Table):
    """`[input]`: the network's view of the values."""

    components: Annotated[int, Field(ge=0)] = 0
    """Leading principal components; 0: all values as they are"""
    whitening: Share = 0.7
    """Power of its standard deviation that each component is divided by"""
    code: Annotated[int, Field(ge=0)] = 0
    """Entries of a character's code, which is learned; 0: one-hot"""


class WriterTable(Table):
    """`[writer]`: the writing loop."""

    steps: Count
    """T"""
    terms: list[Term] = ["energy", "slope", "distance"]


class ReaderTable(Table):
    """`[reader]`: the reading loop."""

    steps: Count
    """K"""
    step: Positive = 0.2
    """γ at the start of training"""
    learned: bool = True
    """Whether γ and the momenta are learned, or stay fixed"""
    momentum: bool = True
    """Nesterov's method; else plain gradient descent"""
    proximity: bool = False
    """Whether known entries can be pulled towards the cue"""


class EraserTable(Table):
    """`[eraser]`: the erasing loop, trained last, by itself."""

    steps: Count = 3
    share: Share = 0.1
    """Share of the time"""
    patterns: Count = 8
    """Most patterns erased, one after another"""


class EpisodesTable(Table):
    """`[episodes]`: number and order of the patterns of a memory."""

    patterns_least: Count
    patterns_limit: Count
    """N is log-uniform between these two"""
    patterns_multiple: Count = 1
    """N is a multiple of this, where that is not beyond the limit: few kinds of episodes are recorded soon on a GPU"""
    singly_share: Share
    """Episodes written one pattern at a time"""
    whole_share: Share = 0.0
    """Episodes written in one batch, as a page that is rewritten; the others in chunks of a random power of two"""
    repeated: Share = 0.0
    """Share of an episode's memories that are given some of their patterns several times"""
    memories: Count
    """Memories side by side in one step of the optimiser"""
    cues: Count
    """Patterns read of each memory, at the most"""


class DistortionTable(Table):
    """A distortion of a pattern; `clean` is none."""

    kind: CueKind
    amount: Positive = 1.0
    """Block: pixels of its side; rows: number of them that are dark; noise: σ; shift: pixels at most, each way;
    contrast: share of it that is left; flips: share of the signs; missing: share of entries; frames: of frames; drift:
    share of the angle to another wording of a text"""
    field: str = ""
    """The field that is distorted; all of them without it"""


class CueTable(DistortionTable):
    """`[[cues]]`: one way of distorting a pattern."""

    share: Positive = 1.0
    """Share of the cues; shares need not add up to 1"""
    told: Share = 0.0
    """Share of these cues whose other entries are held fixed"""
    then: list[DistortionTable] = []
    """Further distortions of the same cues, one after another"""

    @property
    def label(self) -> str:
        """Return the kinds of its distortions."""
        return "+".join(one.kind for one in (self, *self.then))


class OptimizerTable(Table):
    """`[optimizer]`: AdamW with a warm-up, a plateau and a linear decay."""

    steps: Count = 1_000_000
    rate: Positive = 2e-3
    feature_rate: Positive = 5e-4
    """For the slow matrices, which start from the data's principal components: to be moved with care"""
    loop_rate: Positive = 1e-2
    """For the parameters of the loops: step sizes, momenta, weights of the objective"""
    decay_from: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the run after which the rates fall to nothing"""
    gradient_limit: Positive = 1.0
    familiarity_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the logistic loss that makes ΔE tell stored from unseen, beside the error's weight of 1"""
    early_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the error after each reading step but the last, so that none leads far away first; 0: not computed"""
    choice_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy of choosing the right one of several pages by ΔE; 0: not computed"""
    identity_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy of telling which of a memory's patterns was read, by the nearest; 0: not computed"""


class Recipe(Table):
    """A model's name, its rated capacity in patterns, and the tables."""

    name: str
    capacity: Count
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataTable
    input: InputTable = InputTable()
    network: dict[str, Any]
    """Its kind, and what that asks for beside the number of entries"""
    writer: WriterTable
    reader: ReaderTable
    eraser: EraserTable | None = None
    episodes: EpisodesTable
    cues: Annotated[list[CueTable], Field(min_length=1)]
    optimizer: OptimizerTable = OptimizerTable()

    def as_record(self) -> dict[str, Any]:
        """Return plain values for a training record."""
        return self.model_dump(mode="json")


def find_recipe(path: Path) -> Path:
    """Find the file itself, or the recipe of that file name that ships with the package.

    Raises:
        SettingsError: there is neither.
    """
    shipped = Path(str(files("attractor_server"))) / "recipes"
    for candidate in (path, shipped / path.name):
        if candidate.is_file():
            return candidate
    known = sorted(file.name for file in shipped.glob("*.toml"))
    raise SettingsError(f"recipe: saw {str(path)!r}, which is no file; expected a path, or one of {known}")


def load_recipe(path: Path, *, seed: int | None = None) -> Recipe:
    """Read a recipe; `seed` goes before the one in the file.

    Raises:
        SettingsError: naming the file, the entry, the value seen and the value expected.
    """
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    if seed is not None:
        table["seed"] = seed
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_describe_fault(error.errors()[0])}") from error


def _describe_fault(fault: ErrorDetails) -> str:
    place = ".".join(map(str, fault["loc"]))
    match fault["type"]:
        case "missing":
            return f"{place}: missing; expected one"
        case "extra_forbidden":
            return f"{place}: unknown entry; expected none of that name"
        case _:
            return f"{place}: saw {quote(fault['input'])}; expected {fault['msg'].removeprefix('Input should be ')}"
