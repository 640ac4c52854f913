"""The command `attractor memory` against a real server."""

from functools import partial
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
from click.testing import CliRunner, Result

from attractor_server.app import RunningShard
from attractor_server.cli import main

RANDOM = np.random.default_rng(8)
IMAGES = RANDOM.random((3, 4, 4), dtype=np.float32)
KEYS = RANDOM.random((2, 8), dtype=np.float32)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "one.npy", IMAGES[0])
    np.savez(tmp_path / "notes.npz", word=np.array(["dabbed", "abba"]), key=KEYS)
    np.savez(tmp_path / "keys.npz", key=KEYS)
    (tmp_path / "nonsense.npy").write_text("nonsense")
    return tmp_path


async def run(shard: RunningShard, *arguments: object) -> Result:
    command = ["memory", *map(str, arguments), "--server", shard.info.address]
    return await anyio.to_thread.run_sync(partial(CliRunner().invoke, main, command))


async def test_patterns_are_stored_recognized_and_erased_again(shard: RunningShard, files: Path) -> None:
    stored = await run(shard, "store", "a", files / "images.npy", "--model", "able")
    assert (stored.exit_code, stored.output) == (0, "a is at version 1 with 3 patterns\n")
    told = (await run(shard, "recognize", "a", files / "images.npy")).output.splitlines()
    assert told[0].split("\t")[:3] == ["pattern", "energy", "familiarity"]
    assert [line.split("\t")[0] for line in told[1:]] == ["0", "1", "2"]
    assert all(float(line.split("\t")[2]) < 0 for line in told[1:])
    erased = await run(shard, "erase", "a", files / "one.npy")
    assert erased.output == "a is at version 2 with 2 patterns\n"


async def test_a_query_writes_the_completed_fields_and_texts_to_a_file(shard: RunningShard, files: Path) -> None:
    await run(shard, "store", "a", files / "notes.npz", "--model", "note")
    done = await run(shard, "query", "a", files / "keys.npz", "--output", files / "recalled.npz")
    assert done.exit_code == 0, done.output
    recalled = await anyio.to_thread.run_sync(lambda: dict(np.load(files / "recalled.npz")))
    assert recalled["key"].shape == (2, 8)
    assert recalled["word"].shape == (2,)
    assert recalled["word"].dtype.kind == "U"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("store", "a", "images.npy"), "no memory 'a'"),
        (("store", "a", "images.npy", "--model", "huge"), "saw 'huge'"),
        (("erase", "tinies", "one.npy"), "model tiny cannot erase"),
        (("recognize", "tinies", "absent.npy"), "cannot be read as .npy or .npz"),
        (("recognize", "tinies", "nonsense.npy"), "cannot be read as .npy or .npz"),
        (("query", "tinies", "notes.npz", "--output", "out.npz"), "saw the fields"),
    ],
)
async def test_what_can_be_mended_is_told_in_one_line(
    shard: RunningShard, files: Path, command: tuple[str, ...], said: str
) -> None:
    await run(shard, "store", "tinies", files / "images.npy", "--model", "tiny")
    result = await run(shard, *(files / word if word.endswith((".npy", ".npz")) else word for word in command))
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
