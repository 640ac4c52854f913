"""Pages on disk: they come back bit for bit, damage is found and named, and space is used again."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.full_disk import full_after

from attractor_server.engine.pages.spill_file import PageFile
from attractor_server.errors import StoreDamaged, StoreFailed

Floats = NDArray[np.float32]
IMAGE_BYTES, KEPT = (300, 20), (4, 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "model.pages"


@pytest.fixture
def file(path: Path) -> PageFile:
    return PageFile(path, image_bytes=sum(IMAGE_BYTES), kept_values=KEPT[0] * KEPT[1])


def image(random: np.random.Generator) -> list[memoryview]:
    return [memoryview(bytearray(random.bytes(count))) for count in IMAGE_BYTES]


def kept(random: np.random.Generator, rows: int = KEPT[0]) -> Floats:
    return random.random((rows, KEPT[1]), dtype=np.float32)


def loaded(random: np.random.Generator, file: PageFile, page: int) -> tuple[list[memoryview], Floats | None]:
    into = image(random)
    return into, file.load(page, into)


@pytest.mark.parametrize("rows", [None, 0, 1, 4, 5, 200])
def test_a_page_comes_back_as_it_was_saved(file: PageFile, rows: int | None, random: np.random.Generator) -> None:
    pages = {page: (image(random), None if rows is None else kept(random, rows)) for page in (7, 8, 9)}
    for page, (weights, patterns) in pages.items():
        file.save(page, weights, patterns)
    for page, (weights, patterns) in pages.items():
        seen, found = loaded(random, file, page)
        assert seen == weights
        np.testing.assert_array_equal(found, patterns)


def test_a_file_without_a_name_keeps_pages_too_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random: np.random.Generator
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file, weights = PageFile(image_bytes=sum(IMAGE_BYTES)), image(random)
    file.save(1, weights, kept(random))
    assert loaded(random, file, 1)[0] == weights
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_a_name_is_the_owners_alone_and_goes_with_it(path: Path, random: np.random.Generator) -> None:
    file = PageFile(path, image_bytes=sum(IMAGE_BYTES))
    path.parent.mkdir()
    path.write_bytes(b"of a server that was killed")
    file.save(1, image(random), None)
    assert path.stat().st_mode & 0o777 == 0o600
    del file
    assert not path.exists()


def test_what_is_saved_again_takes_no_more_room_and_what_is_dropped_makes_room(
    file: PageFile, random: np.random.Generator
) -> None:
    for page in range(10):
        file.save(page, image(random), kept(random))
    full = file.size_bytes
    for page in range(10):
        file.save(page, image(random), kept(random, 1 + page % 4))
    for page in range(5):
        file.drop(page)
    for page in range(20, 25):
        file.save(page, image(random), kept(random))
    assert file.size_bytes == full
    file.save(30, image(random), kept(random))
    assert file.size_bytes == full * 11 / 10


def test_a_page_that_outgrows_its_records_moves_and_its_room_is_used_again(
    file: PageFile, random: np.random.Generator
) -> None:
    file.save(1, image(random), kept(random))
    one = file.size_bytes
    grown, patterns = image(random), kept(random, 5)
    file.save(1, grown, patterns)
    file.save(2, image(random), kept(random))
    assert file.size_bytes == 3 * one
    seen, found = loaded(random, file, 1)
    assert seen == grown
    np.testing.assert_array_equal(found, patterns)


def test_what_is_dropped_is_overwritten(file: PageFile, path: Path, random: np.random.Generator) -> None:
    secret = kept(random)
    file.save(1, image(random), secret)
    file.save(2, image(random), kept(random))
    assert secret.tobytes() in path.read_bytes()
    file.save(1, image(random), secret[:1])  # less than before
    file.drop(1)
    file.drop(1)
    file.drop(3)  # was never saved
    content = path.read_bytes()
    assert not any(row.tobytes() in content for row in secret)


@pytest.mark.parametrize("part", ["page", "rows", "columns", "checksum", "first tensor", "second tensor", "patterns"])
def test_a_flipped_bit_is_found_and_named(file: PageFile, path: Path, part: str, random: np.random.Generator) -> None:
    file.save(4, image(random), kept(random))
    weights = image(random)
    file.save(5, weights, kept(random))
    second = file.size_bytes // 2
    places = {"page": 0, "rows": 8, "columns": 16, "checksum": 24, "first tensor": 28, "second tensor": 28 + 300}
    at = second + places.get(part, 28 + 320)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=rf"^page 5 is damaged, in page file {path} at byte {second}: "):
        loaded(random, file, 5)
    loaded(random, file, 4)
    file.save(5, weights, None)
    assert loaded(random, file, 5) == (weights, None)


def test_a_file_that_was_cut_is_damaged(file: PageFile, path: Path, random: np.random.Generator) -> None:
    file.save(4, image(random), kept(random))
    os.truncate(path, 200)
    with pytest.raises(StoreDamaged, match=r"^page 4 is damaged, .* at byte 0: it ends 148 bytes early$"):
        loaded(random, file, 4)


@pytest.mark.parametrize(("most", "cause"), [(888, "File too large"), (1000, "it took 112 of 444 bytes")])
def test_a_disk_that_is_full_refuses_what_has_no_room_and_keeps_the_rest(
    file: PageFile, most: int, cause: str, random: np.random.Generator
) -> None:
    with full_after(most):
        pages = {page: image(random) for page in (1, 2)}
        for page, weights in pages.items():
            file.save(page, weights, kept(random))
        for page in (3, 4):
            with pytest.raises(StoreFailed, match=rf"^page {page} could not leave the bank, .* {cause}; make room"):
                file.save(page, image(random), kept(random))
        for page, weights in pages.items():
            assert loaded(random, file, page)[0] == weights
        file.drop(1)
        file.save(4, pages[1], kept(random))
        assert loaded(random, file, 4)[0] == pages[1]
