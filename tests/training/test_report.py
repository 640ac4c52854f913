"""The page of quality: memories of many pages, several seeds, controls wherever they are, and curves as pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.support.tiny_training import RECIPE, many_stripes, of, trained_model
from torch import Tensor

from attractor_server.energy.model import Model
from attractor_server.energy.model_file import save_model
from attractor_server.errors import SettingsError
from attractor_server.training.datasets import DATASETS
from attractor_server.training.distortions import Cues
from attractor_server.training.evaluation import pages
from attractor_server.training.evaluation.bench import Bench
from attractor_server.training.evaluation.plots import draw_curves
from attractor_server.training.evaluation.report import BEGIN, END, fill_page, markdown, picture_of
from attractor_server.training.evaluation.run import Extent, evaluate
from attractor_server.training.evaluation.scores import Row
from attractor_server.training.evaluation.seeds import seed_rows
from attractor_server.training.model_lookup import control_file, seed_files
from attractor_server.training.validation import recall, write_memories

EXTENT = Extent(memories=4, counts=(2, 4), rivals=False, curves=True, pages=True)


@pytest.fixture(scope="module", autouse=True)
def small_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "glyphs", many_stripes)
        patch.setattr(pages, "PATTERNS", 40)
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return trained_model()


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, two other seeds of it as they may lie, and a control."""
    place = tmp_path_factory.mktemp("seeds")
    for seed, name in (
        (5, "tiny-5/tiny"),
        (6, "deep/tiny-seed-6"),
        (1, "tiny"),
        (7, "tiny-x/tiny"),
        (1, "a/tiny-control"),
    ):
        record = {"recipe": RECIPE.model_copy(update={"seed": seed}).as_record()}
        save_model(replace(model, record=record), place / f"{name}.safetensors")
    return place


@pytest.fixture(scope="module")
def rows(folder: Path) -> Sequence[Row]:
    return evaluate([str(folder / "tiny.safetensors")], EXTENT)


def test_a_memory_of_pages_is_measured_beside_the_right_pages_and_the_nearest_item(
    model: Model, rows: Sequence[Row]
) -> None:
    for cue in ("block 14", "noise 0.3"):
        chosen, told, nearest = of(rows, table="pages", cue=cue)
        assert (chosen.count, chosen.bytes) == (40, 10 * model.page_bytes)
        assert (told.right_page, nearest.right_page) == (1.0, None)
        assert 0.3 < (chosen.right_page or 0) <= 1  # by chance a tenth
        assert nearest.bytes == 4 * 40 * 784


def test_where_the_right_page_is_told_each_page_answers_as_a_memory_of_its_own(model: Model) -> None:
    bench = Bench.of(model, memories=2)
    probe = bench.probe(RECIPE.cues[1], 8)
    _, told, _ = pages.page_answers(bench, probe)
    alone = [
        answered_alone(bench, probe.patterns[:, part], probe.cues.values[:, part]) for part in (slice(4), slice(4, 8))
    ]
    torch.testing.assert_close(told, torch.cat(alone, 1))


def answered_alone(bench: Bench, patterns: Tensor, cues: Tensor) -> Tensor:
    none = torch.zeros_like(cues, dtype=torch.bool)
    return recall(bench.model, write_memories(bench.model, patterns, 4), Cues(cues, none))


def test_the_table_of_pages_has_the_share_of_right_pages(rows: Sequence[Row]) -> None:
    text = markdown(of(rows, table="pages"))
    assert "tiny, cue: noise 0.3, 40 patterns in one memory of pages; mse" in text
    assert "| right page |" in text
    assert "| 100.0 % |" in text


def test_seeds_and_controls_are_found_wherever_they_are(folder: Path) -> None:
    found = {str(path.relative_to(folder)) for path in seed_files(folder, "tiny")}
    assert found == {"tiny-5/tiny.safetensors", "deep/tiny-seed-6.safetensors"}
    assert control_file(folder, "tiny") == folder / "a" / "tiny-control.safetensors"
    assert control_file(folder, "small") is None


def test_the_table_of_seeds_has_the_mean_over_them_under_the_name_that_ships(folder: Path) -> None:
    files = [str(path) for path in seed_files(folder, "tiny")]
    found = list(seed_rows(evaluate(files, Extent(memories=4, counts=(2,), rivals=False)), "ours"))
    assert {(row.table, row.model, row.seeds, row.family) for row in found} == {("seeds", "ours", 2, "memory")}
    assert "N = 2, several trainings; mse (lower is better), 95 % over 2 seeds" in markdown(found)


def test_the_same_seed_twice_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"saw seed 1, which .* has too; expected another one"):
        evaluate([str(folder / "tiny.safetensors"), str(folder / "a" / "tiny-control.safetensors")], EXTENT)


def test_curves_become_a_small_picture_that_stands_in_the_page(rows: Sequence[Row], tmp_path: Path) -> None:
    path = tmp_path / "img" / picture_of("tiny")
    assert draw_curves(rows, path)
    assert 5_000 < path.stat().st_size < 60_000
    with Image.open(path) as image:
        assert image.size[0] > 1000
    page = fill_page(f"Before\n{BEGIN}\nstale\n{END}\nAfter", rows, drawn=["tiny"])
    assert page.startswith("Before\n")
    assert page.endswith("After")
    assert "stale" not in page
    assert "![Curves of tiny](img/quality-tiny.png)" in page
    assert "against reading steps" not in page
    assert "against bits of a fast weight" in page


def test_without_curves_there_is_no_picture(rows: Sequence[Row], tmp_path: Path) -> None:
    assert not draw_curves(of(rows, table="quality"), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
