"""Images of full pages that are not what was written, in the artifact folder and in the store's rows."""

import logging
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
from tests.chaos.faults.damage import cut, flip
from tests.chaos.ledger import Images, patterns
from tests.chaos.load import PAGE, recalled
from tests.chaos.tally import Run, fault
from tests.chaos.verifying import TOLERANCE, alone, damage_in

import attractor
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage import offload
from attractor_server.storage.backends.sqlite import FILE
from attractor_server.storage.backends.sqlite_backend import folder_of
from attractor_server.storage.backends.sqlite_files import connect

PAGES = 3
EVERY = 20
"""Times after which the stores are made anew, with other patterns"""
Kept = Literal["all", "open_page"]
Answers = Mapping[str, Sequence[Images]]


@dataclass(frozen=True)
class _Target:
    """An image, and whose it is."""

    memory: str
    page: int
    retain: Kept
    content: int
    location: str | None


@fault("torn-image", times=200, short=6)
def torn_image(run: Run) -> None:
    """The image of a full page is cut off, has a bit flipped, or is gone; every other time it is a row of the store."""
    wholes = {large: run.folder / f"whole-{large}" for large in (0, offload.LARGE_BYTES)}
    answers: Answers = {}
    for number in range(run.times):
        if number % EVERY == 0:
            names = [f"image/{number}/{one}" for one in range(4)]
            for large, folder in wholes.items():
                shutil.rmtree(folder, ignore_errors=True)
                with patch.object(offload, "LARGE_BYTES", large):
                    answers = run.do(_make(_spec(run, folder), names))
        copy = run.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree([*wholes.values()][number % 2], copy)
        target = run.random.choice(_targets(copy))
        what = _damaged(copy, target, run.random)
        for problem in _judged(run, _spec(run, copy), target, answers):
            run.tally.blame(f"{what} of {target}: {problem}")
        run.tally.times += 1


def _spec(run: Run, folder: Path) -> ShardSpec:
    return replace(run.spec(folder / "data"), artifacts=folder / "artifacts")


async def _make(spec: ShardSpec, names: Sequence[str]) -> Answers:
    """Fills a store; what its memories answer when it is opened again."""
    async with alone(spec) as shard, attractor.connect(shard.info.address) as client:
        for number, name in enumerate(names):
            write: attractor.WriteMode = "stream" if number % 2 else "rewrite"
            retain: Kept = "open_page" if number // 2 else "all"
            await client.create_memory(name, model="tiny", write=write, page_patterns=PAGE, retain=retain)
            for first in range(1, PAGES * PAGE, PAGE // 2):
                await client.memory(name).store(patterns(name, first, PAGE // 2))
    async with alone(spec) as shard, attractor.connect(shard.info.address) as client:
        return {name: await recalled(client, name, patterns(name, 1, PAGES * PAGE)) for name in names}


def _targets(folder: Path) -> Sequence[_Target]:
    with closing(connect(folder / "data" / FILE)) as connection:
        rows: Sequence[Any] = connection.execute(
            "SELECT name, number, retain, images.content, location FROM images "
            "JOIN pages ON pages.content = images.content JOIN memories ON memories.id = memory"
        ).fetchall()
    return [_Target(*row) for row in rows]


def _damaged(folder: Path, target: _Target, drawn: random.Random) -> str:
    """Damages the image; what was done to it."""
    path = folder / "weights" if target.location is None else folder / "artifacts" / target.location
    if target.location is not None and drawn.random() < 0.2:
        path.unlink()
        return "no more object"
    with closing(connect(folder / "data" / FILE)) as connection:
        if target.location is None:
            rows: Sequence[Any] = connection.execute(
                "SELECT weights FROM images WHERE content = ?", (target.content,)
            ).fetchall()
            path.write_bytes(rows[0][0])
        what = drawn.choice([cut, flip])(path, drawn)
        if target.location is None:
            statement = "UPDATE images SET weights = ? WHERE content = ?"
            connection.execute(statement, (path.read_bytes(), target.content))
    return what


def _judged(run: Run, spec: ShardSpec, target: _Target, answers: Answers) -> Iterator[str]:
    """What is wrong: it has to be named, and its page to be written anew where its patterns are kept."""
    assert isinstance(spec.artifacts, Path)
    where = f"memory {target.memory!r}, page {target.page}"
    if not any(where in line for line in damage_in(folder_of(spec.store_uri), spec.artifacts)):
        yield "`attractor verify` says nothing of it"
    with _warnings() as warned:
        told = run.do(_told(spec, answers))
    for name, (answer, reason) in told.items():
        if name == target.memory and target.retain == "open_page":
            run.tally.found += reason == "STORE_DAMAGED"
            if reason != "STORE_DAMAGED":
                yield f"the memory answers, or says {reason!r}"
        elif not answer or not all(map(_same, answer, answers[name])):
            run.tally.wrong += 1
            yield f"{name} answers otherwise, or says {reason!r}"
    if target.retain == "all":
        named = any(where in line for line in warned)
        run.tally.harmless += named
        if not named:
            yield f"the server said only {warned}"


def _same(one: Images, other: Images) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


async def _told(spec: ShardSpec, answers: Answers) -> Mapping[str, tuple[Sequence[Images], str]]:
    """What each memory recalls, or the reason why it does not."""
    told: dict[str, tuple[Sequence[Images], str]] = {}
    async with alone(spec) as shard, attractor.connect(shard.info.address, timeout_s=20) as client:
        for name in answers:
            try:
                told[name] = (await recalled(client, name, patterns(name, 1, PAGES * PAGE)), "")
            except attractor.AttractorError as error:
                told[name] = ((), error.reason)
    return told


@contextmanager
def _warnings() -> Iterator[Sequence[str]]:
    """What this process's server logs inside the block, in place of where it goes else."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("attractor_server")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
