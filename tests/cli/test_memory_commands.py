"""The command `attractor memory` against a real server."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio.to_thread
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.support.shards import serving

from attractor_server.app import RunningShard
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import uri_of

IMAGES = np.random.default_rng(8).random((3, 4, 4), dtype=np.float32)
KEYS = np.random.default_rng(9).random((2, 8), dtype=np.float32)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "one.npy", IMAGES[0])
    np.savez(tmp_path / "notes.npz", word=np.array(["dabbed", "abba"]), key=KEYS)
    np.savez(tmp_path / "keys.npz", key=KEYS)
    np.savez(tmp_path / "other_keys.npz", key=KEYS + 0.25)
    (tmp_path / "nonsense.npy").write_text("nonsense")
    return tmp_path


async def run(shard: RunningShard, *arguments: object) -> Result:
    command = ["memory", *map(str, arguments), "--server", shard.info.address]
    return await anyio.to_thread.run_sync(partial(CliRunner().invoke, main, command))


async def test_patterns_are_stored_recognized_and_erased_again(shard: RunningShard, files: Path) -> None:
    stored = await run(shard, "store", "a", files / "images.npy", "--model", "able")
    assert (stored.exit_code, stored.output) == (0, "a is at version 1 with 3 patterns\n")
    told = (await run(shard, "recognize", "a", files / "images.npy")).output.splitlines()
    assert told[0].split("\t") == ["pattern", "energy", "familiarity", "page", "probability"]
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


async def test_a_query_holds_what_cues_with_gaps_give_or_nothing(shard: RunningShard, files: Path) -> None:
    await run(shard, "store", "a", files / "notes.npz", "--model", "note")
    recalled = []
    for known in ((), ("--known", "given"), ("--known", "nothing")):
        done = await run(shard, "query", "a", files / "other_keys.npz", "--output", files / "out.npz", *known)
        assert done.exit_code == 0, done.output
        recalled.append((await anyio.to_thread.run_sync(lambda: dict(np.load(files / "out.npz"))))["key"])
    assert (recalled[0] == KEYS + 0.25).all()
    assert (recalled[1] == recalled[0]).all()
    assert (recalled[2] != recalled[0]).all()


async def test_a_memory_is_made_shown_and_listed_with_its_settings(shard: RunningShard) -> None:
    asked = ("--model", "tiny", "--write", "stream", "--when-full", "forget", "--page-patterns", 5)
    made = await run(shard, "create", "ada/notes", *asked)
    assert made.exit_code == 0, made.output
    assert (await run(shard, "show", "ada/notes")).output == made.output
    told = dict(line.split() for line in made.output.splitlines())
    assert [told[key] for key in ("name", "model", "patterns", "pages")] == ["ada/notes", "tiny", "0", "0"]
    assert [told[key] for key in ("write", "when_full", "page_patterns")] == ["stream", "forget", "5"]
    assert told["model_digest"].startswith("sha256:")
    await run(shard, "create", "bob", "--model", "tiny")
    heads, ada, bob = (line.split("\t") for line in (await run(shard, "ls")).output.splitlines())
    settings = ["write", "when_full", "page_patterns", "retain", "metric", "recall", "ttl_s"]
    assert heads == ["name", "model", "patterns", "pages", "version", *settings]
    assert ada == ["ada/notes", "tiny", "0", "0", "0", "stream", "forget", "5", "all", "model", "posterior", "never"]
    assert bob == ["bob", "tiny", "0", "0", "0", "rewrite", "grow", "8", "all", "model", "posterior", "never"]


async def test_listings_can_be_read_by_programs(shard: RunningShard) -> None:
    for name in ("ada/b", "ada/a", "bob"):
        await run(shard, "create", name, "--model", "tiny", "--page-patterns", 3)
    listed = [json.loads(line) for line in (await run(shard, "ls", "ada/", "--json")).output.splitlines()]
    assert [one["name"] for one in listed] == ["ada/a", "ada/b"]
    assert listed[0]["settings"] == {
        "write": "rewrite",
        "when_full": "grow",
        "page_patterns": 3,
        "retain": "all",
        "metric": "model",
        "recall": "posterior",
        "ttl_s": None,
    }
    assert (listed[0]["pages"], listed[0]["patterns"], listed[0]["version"]) == (0, 0, 0)
    assert json.loads((await run(shard, "show", "ada/a", "--json")).output) == listed[0]
    assert (await run(shard, "ls", "nobody")).output == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("store", "a", "images.npy"), "no memory 'a'"),
        (("store", "a", "images.npy", "--model", "huge"), "saw 'huge'"),
        (("erase", "tinies", "one.npy"), "model tiny cannot erase"),
        (("recognize", "tinies", "absent.npy"), "cannot be read as .npy or .npz"),
        (("recognize", "tinies", "nonsense.npy"), "cannot be read as .npy or .npz"),
        (("query", "tinies", "notes.npz", "--output", "out.npz"), "saw the fields"),
        (("show", "a"), "no memory 'a'"),
        (("create", "tinies", "--model", "pair"), "memory 'tinies' exists and was made from model tiny"),
        (("create", "tinies", "--model", "tiny", "--write", "stream"), "write is rewrite; asked for stream"),
        (("create", "a", "--model", "tiny", "--page-patterns", "33"), "saw 33; expected 1 to 32"),
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


@pytest.fixture
async def keeping(spec: ShardSpec, tmp_path: Path) -> AsyncIterator[RunningShard]:
    async with serving(replace(spec, store_uri=uri_of(tmp_path / "data"))) as (running,):
        yield running


async def test_a_memory_is_forked_kept_restored_moved_by_file_rebuilt_and_forgotten(
    keeping: RunningShard, files: Path
) -> None:
    await run(keeping, "store", "a", files / "images.npy", "--model", "tiny")
    assert (await run(keeping, "snapshot", "a", "one")).output == "a is kept as one, at version 1 with 3 patterns\n"
    await run(keeping, "store", "a", files / "one.npy")
    heads, one = (line.split("\t") for line in (await run(keeping, "snapshots", "a")).output.splitlines())
    assert heads == ["tag", "version", "patterns", "created"]
    assert one[:3] == ["one", "1", "3"]
    for command in (
        ("fork", "a", "b"),
        ("fork", "a", "early", "--tag", "one"),
        ("export", "a", files / "a.memory"),
        ("import", files / "a.memory", "--name", "c"),
        ("rebuild", "c", "--page-patterns", 2),
        ("restore", "a", "one"),
        ("snapshot", "a", "one", "--forget"),
        ("rm", "early"),
    ):
        done = await run(keeping, *command)
        assert done.exit_code == 0, done.output
    listed = [line.split("\t") for line in (await run(keeping, "ls")).output.splitlines()[1:]]
    assert [(name, patterns, pages) for name, _, patterns, pages, *_ in listed] == [
        ("a", "3", "1"),
        ("b", "4", "1"),
        ("c", "4", "2"),
    ]
    refused = await run(keeping, "restore", "a", "one")
    assert refused.exit_code == 2
    assert "expected one of this memory's snapshots []" in refused.output
