"""Recipes: TOML files that say all there is to say about how a model is made."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_type_hints

from attractor_server.errors import SettingsError

Table = TypeVar("Table")
_Bound: TypeAlias = tuple[Callable[[float], bool], str]


@dataclass(frozen=True, kw_only=True)
class NetworkTable:
    """`[network]`: what is trained."""

    kind: str
    components: int
    """Leading principal components of the data that the network sees"""
    whitening: float
    """Power of its standard deviation that each component is divided by: 0 leaves all as they are, 1 makes all alike"""
    features: int
    writing_steps: int
    """T"""
    reading_steps: int
    """K"""


@dataclass(frozen=True, kw_only=True)
class EpisodesTable:
    """`[episodes]`: what it is trained on."""

    dataset: str
    patterns_least: int
    patterns_limit: int
    """N is log-uniform between these two"""
    singly_share: float
    """Episodes written one pattern at a time; the others in chunks of a random power of two"""
    memories: int
    """Memories side by side in one step of the optimiser"""
    cues: int
    """Patterns read of each memory, at the most"""
    block_share: float
    """Cues with a block of background over them; the others have noise"""
    told_share: float
    """Of the cues with a block, those whose other entries are held fixed"""


@dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """`[optimizer]`: AdamW with a warm-up, a plateau and a linear decay."""

    steps: int
    rate: float
    feature_rate: float
    """For the features, which start from the data's principal components: small entries, to be moved with care"""
    loop_rate: float
    """For the parameters of the two loops: step sizes, momenta, weights of the objective"""
    decay_from: float
    """Share of the run after which the rates fall to nothing"""
    gradient_limit: float
    familiarity_weight: float
    """Of the logistic loss that makes ΔE tell stored from unseen, beside the error's weight of 1"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model's name, its rated capacity in patterns, and the three tables."""

    name: str
    capacity: int
    seed: int
    network: NetworkTable
    episodes: EpisodesTable
    optimizer: OptimizerTable

    def as_record(self) -> dict[str, Any]:
        """Plain values for a training record."""
        return asdict(self)


def find_recipe(path: Path) -> Path:
    """The file itself, or the recipe of that file name that ships with the package.

    Raises:
        SettingsError: there is neither.
    """
    shipped = Path(str(files("attractor_server"))) / "recipes"
    for candidate in (path, shipped / path.name):
        if candidate.is_file():
            return candidate
    known = sorted(file.name for file in shipped.glob("*.toml"))
    raise SettingsError(f"recipe: saw {str(path)!r}, which is no file; expected a path, or one of {known}")


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe.

    Raises:
        SettingsError: naming the file, the entry, the value seen and the value expected.
    """
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    tables = {"network": NetworkTable, "episodes": EpisodesTable, "optimizer": OptimizerTable}
    for name, kind in tables.items():
        if not isinstance(table.get(name), dict):
            raise SettingsError(f"{path}: saw no table [{name}]; expected one")
        table[name] = _table(kind, table[name], f"{path}: {name}.")
    if (kind := table["network"].kind) != "quadratic":
        raise SettingsError(f"{path}: network.kind: saw {kind!r}; expected 'quadratic', which alone has a start")
    return _table(Recipe, table, f"{path}: ")


def _table(kind: type[Table], entries: Mapping[str, Any], where: str) -> Table:
    expected = get_type_hints(kind)
    if unknown := sorted(set(entries) - set(expected)):
        raise SettingsError(f"{where}{unknown[0]}: unknown entry; expected one of {sorted(expected)}")
    for name, wanted in expected.items():
        if name not in entries:
            raise SettingsError(f"{where}{name}: missing; expected {wanted.__name__}")
        _check(name, entries[name], wanted, where)
    return kind(**entries)


def _check(name: str, value: object, wanted: type, where: str) -> None:
    allowed = (int, float) if wanted is float else wanted
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise SettingsError(f"{where}{name}: saw {value!r}; expected {wanted.__name__}")
    holds, expected = _BOUNDS.get(name, _POSITIVE)
    if isinstance(value, int | float) and not holds(value):
        raise SettingsError(f"{where}{name}: saw {value!r}; expected {expected}")


_POSITIVE: _Bound = (lambda value: value > 0, "more than 0")
_SHARE: _Bound = (lambda value: 0 <= value <= 1, "between 0 and 1")
_BOUNDS: Mapping[str, _Bound] = {
    "seed": (lambda value: value >= 0, "at least 0"),
    "singly_share": _SHARE,
    "block_share": _SHARE,
    "told_share": _SHARE,
    "decay_from": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "familiarity_weight": (lambda value: value >= 0, "at least 0"),
}
