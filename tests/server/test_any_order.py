"""Random sequences of everything a user can do to memories, against lists of what they should hold."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.server.conftest import serving
from tests.server.models import write_models

import attractor
from attractor_server.app import ShardSpec
from attractor_server.cli import main

PAGE = 3
NAMES = st.sampled_from(["a", "b", "n/a", "n/b", "c"])
TAGS = st.sampled_from(["x", "y"])


@dataclass
class Expected:
    """What a memory should hold: ids of patterns, each of which says what its values are."""

    ids: list[int] = field(default_factory=list)
    version: int = 0
    tags: dict[str, tuple[list[int], int]] = field(default_factory=dict)


def pattern(number: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.random.default_rng(number).random((4, 4), dtype=np.float32)


class Memories(RuleBasedStateMachine):
    """Two shards over one store, and a client of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.folder = Path(self.resources.enter_context(TemporaryDirectory()))
        self.models = write_models(self.folder)
        self.portal = self.resources.enter_context(start_blocking_portal("asyncio"))
        self.server = ExitStack()
        self.expected: dict[str, Expected] = {}
        self.next = 0
        self._start()

    def teardown(self) -> None:
        self.server.close()
        data = str(self.folder / "data")
        verified = CliRunner().invoke(main, ["verify", "--replay", "--data-dir", data, "--models", str(self.models)])
        self.resources.close()
        assert verified.exit_code == 0, verified.output

    def _start(self) -> None:
        spec = ShardSpec(models=self.models, bank_bytes=1 << 14, warm_up=False, data=self.folder / "data")
        shards = self.server.enter_context(self.portal.wrap_async_context_manager(serving(spec, 2)))
        self.client = self.server.enter_context(attractor.Client(shards[0].info.address, timeout_s=30))

    @rule()
    def restart(self) -> None:
        self.server.close()
        self._start()

    @rule(name=NAMES, write=st.sampled_from(["rewrite", "stream"]))
    def create(self, name: str, write: attractor.WriteMode) -> None:
        if name not in self.expected:
            self.client.create_memory(name, model="tiny", page_patterns=PAGE, write=write)
            self.expected[name] = Expected()

    @rule(name=NAMES, count=st.integers(1, 2 * PAGE))
    def store(self, name: str, count: int) -> None:
        if (expected := self.expected.get(name)) is None:
            self._missing(partial(self.client.memory(name).store, pattern(0)))
            return
        numbers = list(range(self.next, self.next + count))
        self.next += count
        result = self.client.memory(name).store(np.stack([pattern(n) for n in numbers]), ids=[str(n) for n in numbers])
        expected.ids += numbers
        expected.version += 1
        assert (result.version, result.total) == (expected.version, len(expected.ids))

    @rule(name=NAMES, place=st.integers(0, 100))
    def erase(self, name: str, place: int) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.ids:
            number = expected.ids.pop(place % len(expected.ids))
            expected.version += 1
            result = self.client.memory(name).erase(pattern(number))
            assert (result.version, result.total) == (expected.version, len(expected.ids))

    @rule(name=NAMES, copy=NAMES, tag=st.none() | TAGS)
    def fork(self, name: str, copy: str, tag: str | None) -> None:
        expected = self.expected.get(name)
        if expected is None or copy in self.expected or (tag is not None and tag not in expected.tags):
            return
        self.client.memory(name).fork(copy, tag=tag)
        ids, version = (expected.ids, expected.version) if tag is None else expected.tags[tag]
        self.expected[copy] = Expected(list(ids), version)

    @rule(name=NAMES, tag=TAGS)
    def snapshot(self, name: str, tag: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and tag not in expected.tags:
            self.client.memory(name).snapshot(tag)
            expected.tags[tag] = (list(expected.ids), expected.version)

    @rule(name=NAMES, tag=TAGS)
    def restore(self, name: str, tag: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and tag in expected.tags:
            expected.ids = list(expected.tags[tag][0])
            expected.version += 1
            info = self.client.memory(name).restore(tag)
            assert (info.version, info.patterns) == (expected.version, len(expected.ids))

    @rule(name=NAMES, tag=TAGS)
    def forget_snapshot(self, name: str, tag: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.tags.pop(tag, None) is not None:
            self.client.memory(name).forget_snapshot(tag)

    @rule(name=NAMES)
    def rebuild(self, name: str) -> None:
        if (expected := self.expected.get(name)) is not None:
            info = self.client.memory(name).rebuild()
            expected.version += 1
            assert (info.version, info.patterns) == (expected.version, len(expected.ids))
            assert info.pages == -(-len(expected.ids) // PAGE)

    @rule(name=NAMES, copy=NAMES)
    def by_file(self, name: str, copy: str) -> None:
        expected = self.expected.get(name)
        if expected is not None and copy not in self.expected:
            self.client.memory(name).export(self.folder / "file")
            self.client.import_memory(self.folder / "file", name=copy)
            self.expected[copy] = Expected(list(expected.ids), expected.version)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if self.expected.pop(name, None) is None:
            self._missing(partial(self.client.delete_memory, name))
        else:
            self.client.delete_memory(name)

    @rule(name=NAMES, place=st.integers(0, 100))
    def query(self, name: str, place: int) -> None:
        expected = self.expected.get(name)
        if expected is not None and expected.ids:
            self._check_kept(name, [expected.ids[place % len(expected.ids)]])

    @invariant()
    def the_server_lists_what_there_is(self) -> None:
        listed = {info.name: (info.version, info.patterns) for info in self.client.memories()}
        assert listed == {name: (one.version, len(one.ids)) for name, one in self.expected.items()}

    def _check_kept(self, name: str, numbers: list[int]) -> None:
        """Cues that are held throughout come back as they are: the kept pattern nearest to each is the very one."""
        cues = np.stack([pattern(number) for number in numbers])
        match = self.client.memory(name).query(cues, known=np.ones_like(cues, np.bool_), match=True).match
        assert match is not None
        assert match.id == [str(number) for number in numbers]
        assert match.distance.max() < 1e-3

    def _missing(self, call: Callable[[], object]) -> None:
        try:
            call()
        except attractor.MemoryNotFound:
            return
        raise AssertionError("there is no such memory")


def test_memories_hold_what_was_done_to_them() -> None:
    run_state_machine_as_test(
        Memories,
        settings=settings(
            max_examples=8, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
