"""Which rivals a model has, by what its data are."""

from collections.abc import Iterator

from attractor_server.training.quality.bench import Bench
from attractor_server.training.quality.rivals_real import real_rows
from attractor_server.training.quality.rivals_signs import sign_rows
from attractor_server.training.quality.rivals_text import text_rows
from attractor_server.training.quality.rows import Row


def rival_rows(bench: Bench) -> Iterator[Row]:
    """For each setting the rows of all rivals, tuned on training data."""
    match bench.recipe.data.metric:
        case "bit_error":
            yield from sign_rows(bench)
        case "characters":
            yield from text_rows(bench)
        case _:
            yield from real_rows(bench)
