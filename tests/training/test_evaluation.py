"""Quality tables: what stands in them, and that their figures are those of the memories and the rivals."""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from scipy.stats import t
from tests.support.tiny_training import RECIPE, many_stripes, of, trained_model
from torch import Generator, Tensor

from attractor_server.cli.main import main
from attractor_server.energy.model import Model
from attractor_server.energy.model_file import load_model, save_model
from attractor_server.errors import SettingsError
from attractor_server.fields import Field, Layout
from attractor_server.training.baselines.graded import Fit
from attractor_server.training.baselines.slots import Pca
from attractor_server.training.datasets import DATASETS, Dataset, Source
from attractor_server.training.distortions import Cues
from attractor_server.training.evaluation import rivals
from attractor_server.training.evaluation.bench import Bench, Probe
from attractor_server.training.evaluation.codecs import Components
from attractor_server.training.evaluation.lookups import Trimmed, lookups
from attractor_server.training.evaluation.measures import int8
from attractor_server.training.evaluation.rivals import rival_rows
from attractor_server.training.evaluation.run import Extent, evaluate
from attractor_server.training.evaluation.scores import Row, average_over_memories, average_over_seeds, student_quantile
from attractor_server.training.evaluation.seeds import combine_seeds
from attractor_server.training.initialization import initialize_model
from attractor_server.training.mixture import mixture_of
from attractor_server.training.recipe import CueTable, DataTable, InputTable, Recipe
from attractor_server.training.validation import recall, score, write_memories

EXTENT = Extent(memories=6, curves=True)
OURS = ["memory, one batch", "memory, chunks of 8", "memory, one at a time"]
TEXT = Field(name="text", kind="text", shape=(12,), alphabet=" abcd")


def words(split: str) -> Source:
    """Lines that go up the alphabet, each from another character on, with random spaces."""
    generator = Generator().manual_seed(0)
    lines = 1 + (torch.arange(12) + torch.arange(200)[:, None]) % 4
    gaps = torch.rand(lines.shape, generator=generator) < 0.3
    return Dataset(Layout((TEXT,)), lines.masked_fill(gaps, 0).float(), torch.arange(200))


@pytest.fixture(scope="module", autouse=True)
def small_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "glyphs", many_stripes)
        patch.setitem(DATASETS, "short-texts", words)
        patch.setattr(rivals, "FIT", Fit(updates=2))
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return trained_model()


@pytest.fixture(scope="module")
def file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "tiny.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def rows(file: Path) -> Sequence[Row]:
    return evaluate([str(file)], EXTENT, control=str(file))


def one(rows: Sequence[Row], **wanted: object) -> Row:
    (row,) = of(rows, **wanted)
    return row


def other(metric: str, data: str, kind: str) -> Bench:
    """A model that was not trained, for data of another kind."""
    recipe = Recipe.model_validate(
        RECIPE.model_dump()
        | {
            "data": DataTable(name=data, metric=metric),  # type: ignore[arg-type]
            "input": InputTable(),
            "cues": [CueTable(kind=kind, amount=0.25)],  # type: ignore[arg-type]
        }
    )
    model = initialize_model(recipe, DATASETS[data]("train"))
    return Bench.of(replace(model, record={"recipe": recipe.as_record()}), counts=(4, 8), memories=4)


def test_each_setting_has_the_memory_in_three_ways_what_does_without_it_and_the_rivals(rows: Sequence[Row]) -> None:
    table = of(rows, table="quality")
    assert {(row.cue, row.count) for row in table} == {(cue, n) for cue in ("block 14", "noise 0.3") for n in (2, 4, 8)}
    for cue, count in {(row.cue, row.count) for row in table}:
        methods = [row.method for row in of(table, cue=cue, count=count)]
        assert methods[:6] == [*OURS, "no write", "trained without writes", "cue"]
        rivals = {"nearest stored", "slots, int8", "modern Hopfield", "ridge"}
        assert rivals <= set(methods)
        assert any("principal components" in name for name in methods)
        assert any("product quantiser" in name for name in methods)
        assert len(methods) == len(set(methods))


def test_lines_of_json_hold_the_rows(rows: Sequence[Row]) -> None:
    for row in rows:
        assert json.loads(row.as_json()) == asdict(row)
    assert json.loads(replace(rows[0], interval=math.nan).as_json())["interval"] is None


def test_only_the_memory_tells_stored_from_unseen(rows: Sequence[Row]) -> None:
    for row in of(rows, table="quality"):
        assert (row.auroc is not None) == (row.method in OURS)
    assert one(rows, table="quality", method=OURS[0], cue="noise 0.3", count=2).auroc == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("method", OURS)
def test_a_memory_that_works_beats_the_same_unwritten(rows: Sequence[Row], method: str) -> None:
    for cue in ("block 14", "noise 0.3"):
        memory, empty = (one(rows, table="quality", cue=cue, count=4, method=name) for name in (method, "no write"))
        assert memory.value + memory.interval < empty.value


def test_figures_are_those_of_the_answers(model: Model, rows: Sequence[Row]) -> None:
    bench = Bench.of(model, memories=6)
    probe = bench.probe(RECIPE.cues[0], 4)
    answers = recall(model, write_memories(model, probe.patterns, 1), probe.cues)
    row = one(rows, table="quality", cue="block 14", count=4, method=OURS[2])
    assert row.value == pytest.approx(score(model, RECIPE.data, answers, probe.patterns), rel=1e-5)
    assert (row.bytes, row.memories, row.metric, row.model) == (model.page_bytes, 6, "mse", "tiny")


def test_rivals_do_what_they_can(rows: Sequence[Row]) -> None:
    noisy = of(rows, table="quality", cue="noise 0.3", count=8)
    assert one(noisy, method="nearest stored").value == pytest.approx(0, abs=1e-6)
    assert one(noisy, method="nearest stored").bytes == 4 * 8 * 784
    assert one(noisy, method="ridge").value < 0.5 * one(noisy, method="cue").value
    assert one(noisy, method="modern Hopfield").value < 0.01


def test_stores_of_codes_take_no_more_than_a_page(model: Model, rows: Sequence[Row]) -> None:
    for row in of(rows, table="quality", count=8):
        for page, width in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
            if f"a page of {page})" in row.method:
                assert row.bytes <= model.page_bytes * width // 4


def test_curves_go_over_patterns_steps_ages_and_bits(model: Model, rows: Sequence[Row]) -> None:
    places = {name: [row.at for row in of(rows, table=name)] for name in ("patterns", "steps", "age", "precision")}
    assert places["patterns"] == [1, 2, 3, 4, 6, 8, 12]
    assert places["steps"] == [*range(1, 13)]
    assert places["age"] == pytest.approx([1 - n / 7 for n in range(8)])
    assert places["precision"] == [32, 16, 8]
    full = one(rows, table="quality", cue="block 14", count=4, method=OURS[2])
    assert one(rows, table="steps", at=3.0).value == pytest.approx(full.value)  # as many as were trained
    assert one(rows, table="precision", at=32.0).value == pytest.approx(full.value)
    assert one(rows, table="precision", at=16.0).bytes == model.page_bytes // 2
    aged = [row.value for row in of(rows, table="age")]
    overload = one(rows, table="quality", cue="block 14", count=8, method=OURS[2])
    assert statistics.fmean(aged) == pytest.approx(overload.value, rel=1e-4)


def test_rounding_to_int8_is_off_by_half_a_step_at_most() -> None:
    fast = torch.randn(3, 5, 7, generator=Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    step = fast.abs().amax((1, 2), keepdim=True) / 127
    assert bool(((int8(fast) - fast).abs() <= 0.501 * step).all())
    assert len(int8(fast)[0].unique()) <= 255


def test_erasing_is_shown_beside_what_was_never_stored(rows: Sequence[Row]) -> None:
    erase = of(rows, table="erase")
    assert [row.method for row in erase] == [
        *("kept, before", "kept, after", "erased, before", "erased, after", "never stored, after"),
        "erased, in a memory of the kept alone",
    ]
    assert {row.count for row in erase} == {4}
    assert one(erase, method="erased, before").value < one(erase, method="never stored, after").value


def test_patterns_that_are_stored_again_and_again_are_shown_beside_those_stored_once(
    rows: Sequence[Row], model: Model
) -> None:
    repeats = of(rows, table="repeats")
    assert [row.method for row in repeats] == [f"{times} × each, {way}" for times in (1, 2, 4) for way in OURS]
    assert {row.count for row in repeats} == {4}
    once, four = (one(repeats, method=f"{times} × each, {OURS[2]}") for times in (1, 4))
    assert once.value == one(rows, table="quality", cue="block 14", count=4, method=OURS[2]).value
    probe = Bench.of(model, memories=EXTENT.memories).probe(RECIPE.cues[0], 1)
    fast = write_memories(model, torch.cat([probe.patterns] * 4, 1), 1)
    assert four.value == pytest.approx(score(model, RECIPE.data, recall(model, fast, probe.cues), probe.patterns))


def test_signs_have_hopfield_networks_at_their_best() -> None:
    bench = other("bit_error", "random-signs", "flips")
    rows = list(rival_rows(bench))
    for count in (4, 8):
        found = {row.method: row.value for row in of(rows, count=count)}
        assert found.keys() == {
            *(f"{rule}, reads by sign" for rule in ("Hebb", "Storkey", "pseudo-inverse")),
            *(f"{rule}, graded reads" for rule in ("Storkey", "pseudo-inverse")),
            *("modern Hopfield", "nearest stored"),
        }
        assert max(found.values()) < 0.02
    assert one(rows, count=8, method="nearest stored").bytes == 8 * 16


def test_text_has_a_store_and_a_filler() -> None:
    rows = list(rival_rows(other("characters", "short-texts", "missing")))
    assert {row.method for row in rows} == {"nearest stored", "n-gram"}
    for count in (4, 8):
        assert one(rows, count=count, method="nearest stored").value == 1
        assert 0.9 < one(rows, count=count, method="n-gram").value < 1
        assert one(rows, count=count, method="n-gram").bytes == 0


@dataclass
class Told:
    """Answers with what it was told: 1 for an entry given, 0 for another, −1 without a mask."""

    name: str = "told"

    def bytes_per_memory(self, n: int, d: int) -> int:
        return 0

    def recall(self, items: Tensor, cues: Tensor, *, known: Tensor | None = None) -> Tensor:
        return torch.full_like(cues, -1) if known is None else known.float()


def test_rivals_are_told_of_each_cue_what_is_right_in_it() -> None:
    values = torch.tensor([[[1.0, torch.nan], [1.0, 2.0], [1.0, 2.0]]])
    known = torch.tensor([[[False, False], [False, True], [False, False]]])
    cues = Cues(values, known)
    probe = Probe(cue="", patterns=values, cues=cues, unseen=cues, filled_cues=values.nan_to_num(0))
    assert probe.ask(Told()).tolist() == [[[1, 0], [0, 1], [-1, -1]]]
    assert probe.take(1).ask(Told()).tolist() == [[[1, 0]]]


def test_principal_components_found_once_serve_as_well_as_those_tuned_by_themselves() -> None:
    generator = Generator().manual_seed(3)
    patterns = torch.randn(300, 16, generator=generator) * 0.7 ** torch.arange(16)
    shared = Components.of(patterns)
    for budget in (2, 5, 9):
        errors = [
            float((codec.round_trip(patterns) - patterns).square().mean())
            for codec in (shared.code(budget), Pca.tune(patterns, budget_bytes=budget))
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3)
        assert shared.code(budget).bytes_per_item(16) <= budget


def test_intervals_over_memories_are_of_the_normal_law() -> None:
    mean, interval = average_over_memories([1.0, 2.0, 3.0, 6.0])
    assert mean == 3
    assert interval == pytest.approx(1.96 * math.sqrt((4 + 1 + 0 + 9) / 3) / 2)
    assert math.isnan(average_over_memories([1.0])[1])


def test_intervals_over_seeds_are_of_students_law() -> None:
    mean, interval = average_over_seeds([1.0, 2.0, 6.0])
    assert (mean, interval) == pytest.approx((3, 4.3027 * math.sqrt(7 / 3)), rel=1e-4)
    for freedom in range(1, 60):
        assert student_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-3)


def test_several_seeds_become_one_table(rows: Sequence[Row]) -> None:
    ours = [row for row in rows if row.family == "memory"]
    others = [replace(row, value=row.value + 0.5, auroc=row.auroc and row.auroc / 2) for row in ours]
    rival = of(rows, method="ridge")[0]
    combined = list(combine_seeds([[*ours, rival], others]))
    assert combined[-1] == rival
    for row, before in zip(combined, ours, strict=False):
        assert row.value == pytest.approx(before.value + 0.25)
        assert row.interval == pytest.approx(student_quantile(1) * math.sqrt(0.125) / math.sqrt(2), rel=1e-5)
        assert row.seeds == 2
    assert combined[0].auroc == pytest.approx(0.75 * (ours[0].auroc or 0))


def test_files_of_different_recipes_are_no_seeds_of_one(file: Path, tmp_path: Path) -> None:
    loaded = load_model(file)
    changed = RECIPE.model_copy(update={"seed": 5, "capacity": 5}).as_record()
    save_model(replace(loaded, record={"recipe": changed}), tmp_path / "changed.safetensors")
    with pytest.raises(SettingsError, match=r"saw another recipe than in .*; expected the same one with another seed"):
        evaluate([str(file), str(tmp_path / "changed.safetensors")], EXTENT)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["evaluate", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_a_line_of_json_for_each_row(file: Path, tmp_path: Path) -> None:
    other_seed = RECIPE.model_copy(update={"seed": 5}).as_record()
    save_model(replace(load_model(file), record={"recipe": other_seed}), tmp_path / "seed-5.safetensors")
    files = str(file), str(tmp_path / "seed-5.safetensors")
    code, output, _ = run(*files, "--json", "--no-rivals", "--memories", "3", "--counts", "2,3")
    assert code == 0
    found = [json.loads(line) for line in output.splitlines()]
    assert {(row["count"], row["memories"], row["seeds"]) for row in found if row["table"] == "quality"} == {
        (2, 3, 2),
        (3, 3, 2),
    }


def test_the_command_prints_tables_for_people(file: Path) -> None:
    code, output, _ = run(str(file), "--no-rivals", "--memories", "2", "--counts", "2")
    assert code == 0
    assert "tiny, cue: block 14, N = 2" in output
    assert "no write" in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "model: saw 'nowhere', which is no file; expected a path, or one of ["),
        (["FILE", "--counts", "2,0"], "saw '2,0'; expected whole numbers from 1 on"),
    ],
)
def test_what_cannot_be_meant_is_told_with_status_2(file: Path, arguments: list[str], told: str) -> None:
    code, _, error = run(*(str(file) if one == "FILE" else one for one in arguments))
    assert code == 2
    assert told in " ".join(error.replace("│", " ").split())


def test_a_model_without_its_recipe_is_refused(file: Path, tmp_path: Path) -> None:
    save_model(replace(load_model(file), record={"made": "by hand"}), tmp_path / "bare.safetensors")
    code, _, error = run(str(tmp_path / "bare.safetensors"))
    assert (code, "train it again" in error) == (2, True)


def test_a_mixture_has_the_memory_and_each_look_up_of_the_cue_and_of_the_answer(file: Path) -> None:
    rows = [
        row
        for row in evaluate([str(file)], replace(EXTENT, mixture=True, curves=False, rivals=False))
        if row.table == "mixture"
    ]
    bench = Bench.of(load_model(file), memories=EXTENT.memories)
    for count in bench.counts:
        memory, *others = [row for row in rows if row.count == count]
        assert memory.family == "memory"
        assert memory.auroc is not None
        names = ("Euclid", "Manhattan", "whitened cosine", "trimmed")
        assert [row.method for row in others] == [f"{name}, of the {of}" for name in names for of in ("cue", "answer")]
        assert all(0 <= row.identified <= 1 and row.family == "rival" for row in others)
        assert all(row.auroc is not None and 0 <= row.auroc <= 1 for row in others)
    exact = max(row.identified for row in rows if row.count == min(bench.counts) and row.family == "rival")
    assert exact > 1.5 / min(bench.counts)  # far more than by chance


def test_the_mixture_of_images_has_five_kinds_and_that_of_vectors_three_where_other_words_are_known() -> None:
    images = mixture_of(many_stripes("train"))
    assert [one.label for one in images] == ["block", "noise", "block+noise", "shift", "contrast+rows"]
    assert [one.amount for one in images] == [14, 0.3, 11, 2, 0.5]
    assert {one.share for one in images} == {1.0}
    assert all(one.told == 0 for one in images)
    vectors = Dataset(Layout((Field(name="x", kind="vector", shape=(8,)),)), torch.randn(9, 8), torch.arange(9))
    assert [one.label for one in mixture_of(vectors)] == ["missing", "noise"]
    assert [one.label for one in mixture_of(replace(vectors, drifts=torch.randn(3, 8)))] == [
        "missing",
        "noise",
        "drift",
    ]


def test_a_look_up_compares_what_is_given_and_may_leave_out_what_fits_worst() -> None:
    items = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    cue, given = torch.tensor([[0.0, 0.0, 0.0, 9.0]]), torch.tensor([[True, True, True, False]])
    known = lookups(Components.of(torch.randn(64, 4, generator=Generator().manual_seed(0))))
    (euclid,), (manhattan,) = known["Euclid"], known["Manhattan"]
    assert euclid(cue, given, items).tolist() == [[0, -3]]
    assert manhattan(cue, given, items).tolist() == [[0, -3]]
    assert euclid(cue, torch.ones_like(given), items).argmax(-1).tolist() == [1]
    assert Trimmed(0.75)(cue, torch.ones_like(given), items).argmax(-1).tolist() == [0]
