"""Memories whose model changes while they are stored to, beside memories of others, which must not notice.

All that it does is calls that any client may do. It needs two models of the same fields.
"""

import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
import numpy as np
from grpc import aio
from numpy.typing import NDArray
from tests.support import raw

import attractor
from attractor_proto.v1 import memories_pb2, memories_pb2_grpc, memory_copies_pb2_grpc, memory_data_pb2_grpc
from attractor_proto.v1 import memory_copies_pb2 as copies_pb
from attractor_proto.v1 import memory_data_pb2 as pb

MINE = 32
OTHERS = 120
"""Made before the attack, and as many after it"""
STORES = 2
"""To each memory of others"""
TAGS = ("bab", "aba")
"""Snapshots that a memory restores one after another; half of them do so the other way round"""
AT_ONCE = 3
"""Calls to each memory while it restores one: that, and a store before and behind it"""
WRITES = 2 + AT_ONCE * len(TAGS[0])
"""To each memory of the attacker: a store and a rebuild, and then those"""
USERS = 4
"""Of others that make memories meanwhile"""
TOLERANCE = 1e-4
CALL_S = 60.0
PROBLEMS_KEPT = 20
Images = NDArray[np.float32]
Call = Callable[[], Awaitable[Any]]


@dataclass
class Findings:
    """What became of everybody's memories."""

    rounds: int = 0
    """Of the attack"""
    stores: int = 0
    """Of others, acknowledged"""
    lost: int = 0
    wrong: int = 0
    """Memories of others that answer otherwise than on a server without the attack"""
    worst: float = 0.0
    """By how much, at most"""
    problems: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """That the attacker was told"""

    def blame(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


@dataclass(frozen=True)
class Scene:
    """Two models of the same fields, with one image field, and what is stored."""

    models: tuple[str, str]
    shape: tuple[int, int]
    block: int = 1
    """Values that are alike, in each direction"""

    def patterns(self, name: str) -> Images:
        """(STORES, *shape), of no other memory."""
        coarse = tuple(side // self.block for side in self.shape)
        drawn = np.random.default_rng(zlib.crc32(name.encode())).random((STORES, *coarse), dtype=np.float32)
        return drawn.repeat(self.block, 1).repeat(self.block, 2)

    def model(self, name: str) -> str:
        """Of a memory of others."""
        return self.models[zlib.crc32(name.encode()) % 2]

    @property
    def known(self) -> NDArray[np.bool_]:
        """The upper half."""
        rows = np.arange(self.shape[0]) < self.shape[0] // 2
        return np.broadcast_to(rows[:, None], (STORES, *self.shape))


async def together(calls: Iterable[Call]) -> list[BaseException]:
    """Does all at once; the errors that came."""
    errors: list[BaseException] = []

    async def do(call: Call) -> None:
        try:
            await call()
        except (aio.AioRpcError, attractor.AttractorError) as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(do, call)
    return errors


class Others:
    """Memories of many namespaces, each of which is made, stored to and asked."""

    def __init__(self, client: attractor.AsyncClient, scene: Scene) -> None:
        self._client = client
        self._scene = scene

    async def make(self, names: Sequence[str]) -> None:
        """Makes these at once, and stores to each, one pattern after another.

        Raises:
            AttractorError: as the first one was told that failed.
        """
        if errors := await together([self._made(name) for name in names]):
            raise errors[0]

    def _made(self, name: str) -> Call:
        async def make() -> None:
            memory = await self._client.create_memory(name, model=self._scene.model(name))
            for number, pattern in enumerate(self._scene.patterns(name), 1):
                stored = await memory.store(pattern[None])
                assert (stored.version, stored.total) == (number, number), f"{name}: {stored}"

        return make

    async def ask(self, names: Sequence[str]) -> Mapping[str, Images]:
        """What each recalls from the upper halves: with the patterns that it keeps, and then by its network alone."""
        answers: dict[str, Images] = {}

        def asked(name: str) -> Call:
            async def ask() -> None:
                cues, memory = self._scene.patterns(name), self._client.memory(name)
                recalls = [await memory.query(cues, known=self._scene.known, kept=kept) for kept in (True, False)]
                answers[name] = np.concatenate([recall.pattern for recall in recalls])

            return ask

        if errors := await together([asked(name) for name in names]):
            raise errors[0]
        return answers

    async def counts(self, names: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Version of each, and patterns in it."""
        found: dict[str, tuple[int, int]] = {}
        for name in names:
            info = await self._client.memory(name).info()
            found[name] = info.version, info.patterns
        return found


class Attacker:
    """Does rounds of calls to memories of its own until the time is over."""

    def __init__(self, channel: aio.Channel, scene: Scene, findings: Findings) -> None:
        self._memories = memories_pb2_grpc.MemoriesStub(channel)
        self._copies = memory_copies_pb2_grpc.CopiesStub(channel)
        self._data = memory_data_pb2_grpc.MemoryDataStub(channel)
        self._scene = scene
        self._findings = findings

    async def attack(self, seconds: float) -> None:
        """As many rounds as there is time for, one at least."""
        end_s = time.monotonic() + seconds
        while not self._findings.rounds or time.monotonic() < end_s:
            await self._round([f"mine{self._findings.rounds}x{number}/m" for number in range(MINE)])
            self._findings.rounds += 1

    async def _round(self, names: Sequence[str]) -> None:
        await self._note(self._prepared(name) for name in names)
        for tags in zip(*TAGS, strict=True):
            await self._note(
                call
                for number, name in enumerate(names)
                for call in (self._stored(name), self._restored(name, tags[number % len(tags)]), self._stored(name))
            )
        await self._note(self._judged(name) for name in names)
        await self._note(self._deleted(name) for name in names)

    async def _note(self, calls: Iterable[Call]) -> None:
        """All of these are to be answered well, since every call is one that its memory can do."""
        for error in await together(calls):
            told = f"{error.code().name}: {error.details()}" if isinstance(error, aio.AioRpcError) else str(error)
            self._findings.errors[told.partition(":")[0]] += 1
            self._findings.blame(f"the attacker was told {told}")

    def _prepared(self, name: str) -> Call:
        """A memory with a snapshot as each of the models."""
        one, other = self._scene.models

        async def prepare() -> None:
            await self._memories.Create(memories_pb2.CreateRequest(name=name, model=other), timeout=CALL_S)
            await self._stored(name)()
            await self._copies.TakeSnapshot(copies_pb.TakeSnapshotRequest(name=name, tag="b"), timeout=CALL_S)
            await self._copies.Rebuild(copies_pb.RebuildRequest(name=name, model=one), timeout=CALL_S)
            await self._copies.TakeSnapshot(copies_pb.TakeSnapshotRequest(name=name, tag="a"), timeout=CALL_S)
            await self._data.Query(pb.QueryRequest(memory=name, tensors=[self._tensor(name)]), timeout=CALL_S)

        return prepare

    def _restored(self, name: str, tag: str) -> Call:
        return lambda: self._copies.Restore(copies_pb.RestoreRequest(name=name, tag=tag), timeout=CALL_S)

    def _stored(self, name: str) -> Call:
        request = pb.StoreRequest(memory=name, tensors=[self._tensor(name)])
        return lambda: self._data.Store(request, timeout=CALL_S)

    def _judged(self, name: str) -> Call:
        async def judge() -> None:
            got = await self._memories.Get(memories_pb2.GetRequest(name=name), timeout=CALL_S)
            if got.memory.version != WRITES:
                self._findings.blame(f"{name}: {WRITES} writes were acknowledged, its version is {got.memory.version}")

        return judge

    def _deleted(self, name: str) -> Call:
        return lambda: self._memories.Delete(memories_pb2.DeleteRequest(name=name), timeout=CALL_S)

    def _tensor(self, name: str) -> pb.Tensor:
        return raw.tensor(self._scene.patterns(name)[:1])


async def attacked(
    address: str, scene: Scene, seconds: float, *, others_count: int = OTHERS
) -> tuple[Findings, Mapping[str, Images]]:
    """Attacks a server for so long, while others use it; what was found, and what the memories of others answer."""
    findings = Findings()
    before, after = ([f"{when}{number}/m" for number in range(others_count)] for when in ("before", "after"))
    during: list[str] = []
    async with attractor.connect(address, timeout_s=CALL_S) as client, aio.insecure_channel(address) as channel:
        others = Others(client, scene)
        await others.make(before)
        await others.ask(before)

        async def use(user: int) -> None:
            for number in count():
                name = f"during{user}x{number}/m"
                await others.make([name])
                during.append(name)
                await others.ask([during[0], name])

        async with anyio.create_task_group() as tasks:
            for user in range(USERS):
                tasks.start_soon(use, user)
            await Attacker(channel, scene, findings).attack(seconds)
            tasks.cancel_scope.cancel()
        await others.make(after)
        names = [*before, *during, *after]
        answers = await others.ask(names)
        for name, (version, patterns) in (await others.counts(names)).items():
            findings.stores += STORES
            if (version, patterns) != (STORES, STORES):
                findings.lost += max(1, STORES - patterns)
                findings.blame(f"{name}: {STORES} stores were acknowledged; {version=}, {patterns=}")
    return findings, answers


async def compare(
    findings: Findings, answers: Mapping[str, Images], scene: Scene, client: attractor.AsyncClient
) -> None:
    """Holds answers against those of a server without the attack, whose client this is."""
    others = Others(client, scene)
    await others.make([*answers])
    for name, expected in (await others.ask([*answers])).items():
        distance = float(np.abs(answers[name] - expected).max())
        findings.worst = max(findings.worst, distance)
        if not distance <= TOLERANCE:
            findings.wrong += 1
            findings.blame(f"{name}: it answers otherwise than without the attack, by {distance:.2g}")
