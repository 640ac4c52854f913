"""Files that are not what was written: a bit flipped, or an end cut off, while no server has them."""

import logging
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from grpc import aio
from tests.chaos.ledger import Images, patterns
from tests.chaos.load import PAGE, made, recalled
from tests.chaos.tally import Run, fault
from tests.chaos.verifying import TOLERANCE, alone
from tests.support import raw

import attractor
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc
from attractor_server.errors import StoreDamaged, StoreFailed
from attractor_server.shard.spec import ShardSpec
from attractor_server.storage.backends.sqlite_backend import folder_of, uri_of

MEMORIES = 4
STORES = 6 * PAGE + 1
FILES = {"attractor.db": 6, "attractor.db-wal": 3, "attractor.db-beacon": 1}
"""How often each is damaged, where it is there"""
USED = 0.8
"""Of the bits that are flipped, those in bytes that are not zero, as the free parts of a page are"""
WAIT_S = 5.0
"""Longer than the lease of the one whose files were copied, which is still at work"""
NAMED = ("STORE_DAMAGED", "STORE_FAILED")
EVERY = 20
"""Times after which the files are made anew, with other patterns"""
Answers: TypeAlias = Mapping[str, Sequence[Images]]
Damage: TypeAlias = Callable[[Path, random.Random], str]


class WithoutAWord(Exception):
    """A wrong answer that no error announced."""


@fault("flipped-bit", times=100, short=6)
def flipped_bit(run: Run) -> None:
    """A random bit of the store's files is another after a stop."""
    _damaged(run, flip)


@fault("torn-tail", times=100, short=4)
def torn_tail(run: Run) -> None:
    """The end of one of the store's files is cut off after a stop."""
    _damaged(run, cut)


def flip(path: Path, drawn: random.Random) -> str:
    content = bytearray(path.read_bytes())
    used = [at for at, byte in enumerate(content) if byte] if drawn.random() < USED else range(len(content))
    at, bit = drawn.choice(used), drawn.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} of {path.name}"


def cut(path: Path, drawn: random.Random) -> str:
    size = path.stat().st_size
    left = size - drawn.randint(1, min(size, drawn.choice([16, 4096, size])))
    with path.open("r+b") as file:
        file.truncate(left)
    return f"{path.name} cut from {size} to {left} bytes"


def _damaged(run: Run, damage: Damage) -> None:
    logging.disable(logging.CRITICAL)  # what the shard, in this process, says of its damage
    whole, copy = run.folder / "whole", run.folder / "copy"
    answers: Answers = {}
    for number in range(run.times):
        if number % EVERY == 0:
            shutil.rmtree(whole, ignore_errors=True)
            names = [f"damage/{number}/{one}" for one in range(MEMORIES)]
            orderly = run.random.random() < 0.5
            answers = run.do(_make(run.spec(run.folder / f"live-{number}"), whole, names, orderly=orderly))
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        there = [path for name in FILES if (path := copy / name).exists() and path.stat().st_size]
        (path,) = run.random.choices(there, [FILES[path.name] for path in there])
        what = damage(path, run.random)
        match run.do(_found(run.spec(copy), answers)):
            case bool(found):
                run.tally.found += found
                run.tally.harmless += not found
            case WithoutAWord() as error:
                run.tally.wrong += 1
                run.tally.blame(f"{what}: {error}")
        run.tally.times += 1
    logging.disable(logging.NOTSET)


async def _make(spec: ShardSpec, to: Path, names: Sequence[str], *, orderly: bool) -> Answers:
    """Fills a store, and copies its files, as an orderly end or as a crash leaves them; the answers of its memories."""
    shutil.rmtree(folder_of(spec.store_uri), ignore_errors=True)
    async with alone(spec) as shard:
        async with attractor.connect(shard.info.address) as client, aio.insecure_channel(shard.info.address) as channel:
            await _fill(client, channel, names)
        if not orderly:
            shutil.copytree(folder_of(spec.store_uri), to)
    if orderly:
        shutil.copytree(folder_of(spec.store_uri), to)
    shutil.copytree(to, folder_of(spec.store_uri) / "again")
    spec = replace(spec, store_uri=uri_of(folder_of(spec.store_uri) / "again"))
    async with alone(spec) as shard, attractor.connect(shard.info.address) as client:
        return {name: await recalled(client, name, patterns(name, 1, STORES)) for name in names}


async def _fill(client: attractor.AsyncClient, channel: aio.Channel, names: Sequence[str]) -> None:
    await made(client, "gone", 0)
    await client.delete_memory("gone")
    for number, name in enumerate(names):
        await made(client, name, number)
        for sequence in range(1, STORES + 1):
            await _store(channel, name, sequence)


async def _store(channel: aio.Channel, name: str, sequence: int) -> tuple[int, int]:
    """A numbered store of one pattern: its answer, the first one where it is a repeat."""
    tensors = [raw.tensor(patterns(name, sequence))]
    request = pb.StoreRequest(memory=name, tensors=tensors, client_id="chaos", sequence=sequence)
    answer = await memory_data_pb2_grpc.MemoryDataStub(channel).Store(request)
    return answer.version, answer.total


async def _found(spec: ShardSpec, answers: Answers) -> bool | WithoutAWord:
    """Whether damage was named: at the start, or by any memory. What is not named has to be right."""
    try:
        async with alone(spec) as shard:
            address = shard.info.address
            async with attractor.connect(address, timeout_s=WAIT_S) as client, aio.insecure_channel(address) as channel:
                try:
                    named = [await _named(client, channel, name, before) for name, before in answers.items()]
                    named.append(await _listed(client, answers))
                except WithoutAWord as error:  # here: a group of tasks would wrap it
                    return error
                return any(named)
    except (StoreDamaged, StoreFailed):
        return True
    except ExceptionGroup as group:  # the shard had begun to serve
        if group.split((StoreDamaged, StoreFailed))[1] is None:
            return True
        raise


async def _named(client: attractor.AsyncClient, channel: aio.Channel, name: str, before: Sequence[Images]) -> bool:
    try:
        after = await recalled(client, name, patterns(name, 1, STORES))
        info = await client.memory(name).info()
    except attractor.AttractorError as error:
        return _is_named(name, error)
    for one, other in zip(after, before, strict=True):
        if one.shape != other.shape or not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
            raise WithoutAWord(f"{name} recalls otherwise, by {np.abs(one - other).max():.2g}")
    if (info.version, info.patterns) != (STORES, STORES):
        raise WithoutAWord(f"{name} has become {info}")
    return await _repeats(channel, name)


async def _repeats(channel: aio.Channel, name: str) -> bool:
    """A repeat gets its first answer, and a new store the next one."""
    try:
        for sequence in (1, STORES, STORES + 1):
            if (answer := await _store(channel, name, sequence)) != (sequence, sequence):
                raise WithoutAWord(f"{name}: store {sequence} was told {answer}")
    except aio.AioRpcError as error:
        return _is_named(name, attractor._errors.from_rpc(error))
    return False


async def _listed(client: attractor.AsyncClient, answers: Answers) -> bool:
    try:
        names = [info.name async for info in client.memories("")]
    except attractor.AttractorError as error:
        return _is_named("the list", error)
    if names != sorted(answers):
        raise WithoutAWord(f"listed are {names}")
    return False


def _is_named(name: str, error: attractor.AttractorError) -> bool:
    if error.reason not in NAMED:
        raise WithoutAWord(f"{name}: {type(error).__name__}, {error.reason}: {error}")
    return True
