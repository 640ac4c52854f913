"""Means over several seeds of one recipe, with intervals over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from attractor_server.errors import SettingsError
from attractor_server.training.evaluation.scores import Row, average_over_seeds
from attractor_server.training.recipe import Recipe


def combine_seeds(tables: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield the mean of each row of the first table over all tables; rows that only the first has stay as they are."""
    others = [{_key(row): row for row in table} for table in tables[1:]]
    for row in tables[0]:
        rows = [row, *(table[_key(row)] for table in others if _key(row) in table)]
        yield _combine(rows) if len(rows) > 1 else row


def seed_rows(rows: Sequence[Row], name: str) -> Iterator[Row]:
    """Yield the memory's rows of several seeds as the `seeds` table of the model of that name."""
    for row in rows:
        if row.table == "quality" and row.family == "memory":
            yield replace(row, table="seeds", model=name)


def check_seeds(recipes: Mapping[str, Recipe]) -> None:
    """Check that these recipes, by their files, are different seeds of one recipe.

    Raises:
        SettingsError: naming two files with different recipes, or with the same seed.
    """
    plain = {file: recipe.model_copy(update={"seed": 0, "name": ""}) for file, recipe in recipes.items()}
    first = next(iter(plain))
    for file, recipe in plain.items():
        if recipe != plain[first]:
            raise SettingsError(f"{file}: saw another recipe than in {first}; expected the same one with another seed")
    seeds: dict[int, str] = {}
    for file, recipe in recipes.items():
        if (other := seeds.setdefault(recipe.seed, file)) != file:
            raise SettingsError(f"{file}: saw seed {recipe.seed}, which {other} has too; expected another one")


def _key(row: Row) -> tuple[object, ...]:
    return row.table, row.cue, row.count, row.method, row.at


def _combine(rows: Sequence[Row]) -> Row:
    value, interval = average_over_seeds([row.value for row in rows])
    identified, identified_interval = average_over_seeds([row.identified for row in rows])
    aurocs = [row.auroc for row in rows if row.auroc is not None]
    return replace(
        rows[0],
        value=value,
        interval=interval,
        identified=identified,
        identified_interval=identified_interval,
        auroc=average_over_seeds(aurocs)[0] if aurocs else None,
        seeds=len(rows),
    )
