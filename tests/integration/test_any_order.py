"""Random sequences of everything a user can do to memories, against lists of what they should hold.

Meanwhile groups of slots move between the two shards, and shards are killed. The client knows nothing of that, and each
of its calls is done once.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.support.postgresql import PostgresServer
from tests.support.random_calls import (
    CALLS,
    MODELS,
    NAMES,
    PAGE,
    PLACES,
    REPLACED,
    TAGS,
    Expected,
    id_of,
    owners,
    pattern,
)
from tests.support.shard_process import ShardProcess
from tests.support.tiny_models import write_models

import attractor
from attractor_server.cli.main import main
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import ShardInfo, Topology
from attractor_server.storage.backends.sqlite_backend import uri_of

CALL_S = 30.0
TELLINGS = 20
# More of them find more: ATTRACTOR_EXAMPLES=100 takes some minutes.
EXAMPLES = int(os.environ.get("ATTRACTOR_EXAMPLES", "6"))
SHARDS = st.integers(0, 1)
QUICK = attractor.Retry(first_delay_s=0.01, limit_delay_s=0.1)
SPLITS = st.sampled_from([0.0, 0.5, 1.0])
"""Parts of the groups that the second shard has"""
DELAYS_S = st.sampled_from([0.0, 0.001, 0.003, 0.006, 0.01, 0.02])


class Memories(RuleBasedStateMachine):
    """Two shards over one store, each in a process of its own, and a client of the first."""

    postgres: PostgresServer | None = None
    """Keeps the store, which is in a folder without it"""

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.folder = Path(self.resources.enter_context(TemporaryDirectory()))
        self.models = write_models(self.folder)
        uri = self.postgres.store() if self.postgres else uri_of(self.folder / "data")
        self.kept = ("--backend-store-uri", uri)
        spec = ShardSpec(
            models=self.models,
            bank_bytes=1 << 14,
            warm_up=False,
            check_banks=True,
            store_uri=uri,
        )
        self.shards = [
            self.resources.enter_context(ShardProcess(replace(spec, number=number), alone=False)) for number in (0, 1)
        ]
        self.epoch = 0
        self.owners = owners(0.5, 0)
        self._told()
        self.connection = ExitStack()
        client = attractor.Client(self.shards[0].address, timeout_s=CALL_S, retry=QUICK)
        self.client = self.connection.enter_context(client)
        self.expected: dict[str, Expected] = {}
        self.next = 0
        self.disturbed = False

    def teardown(self) -> None:
        self.connection.close()
        for shard in self.shards:
            shard.kill()
        verified = CliRunner().invoke(main, ["verify", "--replay", *self.kept, "--models", str(self.models)])
        self.resources.close()
        assert verified.exit_code == 0, verified.output

    @initialize()
    def begin(self) -> None:
        for name in ("a", "n/a"):
            self.create(name, "rewrite", "tiny")
            self.store(name, PAGE + 1)
            self.snapshot(name, "x")
            self.rebuild(name, "able")

    @rule(number=SHARDS)
    def restart(self, number: int) -> None:
        self.shards[number].stop()
        self.shards[number].start()
        self._told()

    @rule(number=SHARDS)
    def kill(self, number: int) -> None:
        self.shards[number].kill()
        self.shards[number].start()
        self._told()

    @rule(split=SPLITS, seed=PLACES)
    def move(self, split: float, seed: int) -> None:
        self.owners = owners(split, seed)
        self._told()

    @rule(call=CALLS, number=SHARDS, delay_s=DELAYS_S)
    def kill_during(self, call: tuple[object, ...], number: int, delay_s: float) -> None:
        self._during(call, delay_s, partial(self.kill, number))

    @rule(call=CALLS, split=SPLITS, seed=PLACES, delay_s=DELAYS_S)
    def move_during(self, call: tuple[object, ...], split: float, seed: int, delay_s: float) -> None:
        self._during(call, delay_s, partial(self.move, split, seed))

    @rule(name=NAMES, write=st.sampled_from(["rewrite", "stream"]), model=MODELS)
    def create(self, name: str, write: attractor.WriteMode, model: str) -> None:
        if name not in self.expected:
            self.client.create_memory(name, model=model, page_patterns=PAGE, write=write)
            self.expected[name] = Expected(model)

    @rule(name=NAMES, count=st.integers(1, 2 * PAGE))
    def store(self, name: str, count: int) -> None:
        if (expected := self.expected.get(name)) is None:
            self._missing(partial(self.client.memory(name).store, pattern(0)))
            return
        numbers = list(range(self.next, self.next + count))
        self.next += count
        result = self.client.memory(name).store(
            np.stack([pattern(n) for n in numbers]), ids=[id_of(n) for n in numbers]
        )
        expected.ids += numbers
        expected.version += 1
        assert (result.version, result.total) == (expected.version, len(expected.ids))

    @rule(name=NAMES, place=PLACES)
    def erase(self, name: str, place: int) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.ids:
            number = expected.ids.pop(place % len(expected.ids))
            expected.version += 1
            result = self.client.memory(name).erase(pattern(number))
            assert (result.version, result.total) == (expected.version, len(expected.ids))

    @rule(name=NAMES, place=PLACES, new=st.integers(0, 2))
    def replace(self, name: str, place: int, new: int) -> None:
        """Store a pattern in the place of one that is there, and new ones beside it."""
        expected = self.expected.get(name)
        if expected is not None and expected.ids:
            place %= len(expected.ids)
            expected.ids[place] += REPLACED
            added = list(range(self.next, self.next + new))
            self.next += new
            numbers = [expected.ids[place], *added]
            expected.ids += added
            expected.version += 1
            patterns, ids = np.stack([pattern(n) for n in numbers]), [id_of(n) for n in numbers]
            result = self.client.memory(name).store(patterns, ids=ids, on_conflict="replace")
            assert (result.version, result.total) == (expected.version, len(expected.ids))

    @rule(name=NAMES, place=PLACES)
    def erase_by_id(self, name: str, place: int) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.ids:
            number = expected.ids.pop(place % len(expected.ids))
            expected.version += 1
            result = self.client.memory(name).items.erase(id_of(number))
            assert (result.version, result.total) == (expected.version, len(expected.ids))

    @rule(name=NAMES)
    def list_items(self, name: str) -> None:
        if (expected := self.expected.get(name)) is not None:
            listed = self.client.memory(name).items.list(page_size=2)
            assert [item.id for item in listed] == [id_of(number) for number in expected.ids]

    @rule(name=NAMES, copy=NAMES, tag=st.none() | TAGS)
    def fork(self, name: str, copy: str, tag: str | None) -> None:
        expected = self.expected.get(name)
        if expected is None or copy in self.expected or (tag is not None and tag not in expected.tags):
            return
        self.client.memory(name).fork(copy, tag=tag)
        self.expected[copy] = (expected if tag is None else expected.tags[tag]).copy()

    @rule(name=NAMES, tag=TAGS)
    def snapshot(self, name: str, tag: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and tag not in expected.tags:
            self.client.memory(name).snapshot(tag)
            expected.tags[tag] = expected.copy()

    @rule(name=NAMES, tag=TAGS)
    def restore(self, name: str, tag: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and tag in expected.tags:
            kept = expected.tags[tag]
            expected.model, expected.ids = kept.model, list(kept.ids)
            expected.version += 1
            info = self.client.memory(name).restore(tag)
            assert (info.version, info.patterns, info.model) == (expected.version, len(kept.ids), kept.model)

    @rule(name=NAMES, tag=TAGS)
    def forget_snapshot(self, name: str, tag: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.tags.pop(tag, None) is not None:
            self.client.memory(name).forget_snapshot(tag)

    @rule(name=NAMES, model=MODELS)
    def rebuild(self, name: str, model: str) -> None:
        if (expected := self.expected.get(name)) is not None:
            info = self.client.memory(name).rebuild(model=model)
            expected.model = model
            expected.version += 1
            assert (info.version, info.patterns, info.model) == (expected.version, len(expected.ids), model)
            assert info.pages == -(-len(expected.ids) // PAGE)

    @rule(name=NAMES, tag=TAGS, place=PLACES)
    def use_while_restoring(self, name: str, tag: str, place: int) -> None:
        expected = self.expected.get(name)
        if expected is not None and tag in expected.tags:
            restore = partial(self.client.memory(name).restore, tag)
            self._use_while(name, expected.tags[tag], restore, place, adds=False)

    @rule(name=NAMES, model=MODELS, place=PLACES)
    def use_while_rebuilding(self, name: str, model: str, place: int) -> None:
        if (expected := self.expected.get(name)) is not None:
            rebuild = partial(self.client.memory(name).rebuild, model=model)
            self._use_while(name, Expected(model, list(expected.ids)), rebuild, place, adds=True)

    @rule(name=NAMES, copy=NAMES)
    def by_file(self, name: str, copy: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and copy not in self.expected:
            self.client.memory(name).export(self.folder / "file")
            self.client.import_memory(self.folder / "file", name=copy)
            self.expected[copy] = expected.copy()

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if self.expected.pop(name, None) is None:
            self._missing(partial(self.client.delete_memory, name))
        else:
            self.client.delete_memory(name)

    @rule(name=NAMES, place=PLACES)
    def query(self, name: str, place: int) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.ids:
            self._check_kept(name, [expected.ids[place % len(expected.ids)]])

    @invariant()
    def the_server_lists_what_there_is(self) -> None:
        listed = {info.name: (info.version, info.patterns, info.model) for info in self.client.memories()}
        assert listed == {name: (one.version, len(one.ids), one.model) for name, one in self.expected.items()}

    def _use_while(self, name: str, becomes: Expected, change: Callable[[], object], place: int, *, adds: bool) -> None:
        """Stores to a memory and asks it right behind a call that makes another of it, and that nobody waits for.

        The store comes before or behind that; what it `adds` before is kept by a rebuild, and is gone with a restore.
        """
        expected, memory, number = self.expected[name], self.client.memory(name), self.next
        self.next += 1
        always = [one for one in expected.ids if one in becomes.ids]
        with ThreadPoolExecutor(3) as threads:
            changed = threads.submit(change)
            storing = threads.submit(memory.store, pattern(number)[None], ids=[id_of(number)])
            asked = threads.submit(self._check_kept, name, [always[place % len(always)]] if always else [])
            for one in (changed, asked):
                one.result(CALL_S)
            stored = storing.result(CALL_S)
        behind = stored.version == expected.version + 2
        assert behind or stored.version == expected.version + 1
        assert stored.total == len(becomes.ids if behind else expected.ids) + 1
        expected.model, expected.version = becomes.model, expected.version + 2
        expected.ids = [*becomes.ids, number] if behind or adds else list(becomes.ids)

    def _check_kept(self, name: str, numbers: list[int]) -> None:
        """Cues that are held throughout come back as they are: the kept pattern nearest to each is the very one."""
        if not numbers:
            return
        cues = np.stack([pattern(number) for number in numbers])
        match = self.client.memory(name).query(cues, known=np.ones_like(cues, np.bool_), match=True).match
        assert match is not None
        assert match.id == [id_of(number) for number in numbers]
        assert match.distance.max() < 1e-3

    def _told(self) -> None:
        """Both shards are told who owns what, until each has what is its own."""
        self.epoch += 1
        infos = tuple(ShardInfo(shard.address, "cpu") for shard in self.shards)
        topology = Topology(self.epoch, infos, self.owners)
        wanted = [topology.groups(number) for number in (0, 1)]
        for _ in range(TELLINGS):
            for shard in self.shards:
                shard.tell(topology)
            if [shard.held() for shard in self.shards] == wanted:
                return
        raise AssertionError(f"the shards do not have what topology {self.epoch} says")

    def _during(self, call: tuple[object, ...], delay_s: float, disturb: Callable[[], object]) -> None:
        """Has something happen while a call is under way."""
        name, *arguments = call
        self.disturbed = True
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(getattr(self, str(name)), *arguments)
            time.sleep(delay_s)
            disturb()
            done.result(CALL_S)
        self.disturbed = False

    def _missing(self, call: Callable[[], object]) -> None:
        try:
            call()
        except attractor.MemoryNotFound:
            return
        assert self.disturbed, "there is no such memory"  # a deletion that is repeated takes that for its own doing


class MemoriesInPostgres(Memories):
    """The same, over PostgreSQL."""


def test_memories_hold_what_was_done_to_them() -> None:
    _run(Memories, EXAMPLES)


def test_memories_in_postgresql_hold_what_was_done_to_them(postgres: PostgresServer) -> None:
    MemoriesInPostgres.postgres = postgres
    _run(MemoriesInPostgres, max(1, EXAMPLES // 2))


def _run(machine: type[Memories], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(
                Phase.explicit,
                Phase.reuse,
                Phase.generate,
            ),  # to shrink, moments had to repeat
        ),
    )
