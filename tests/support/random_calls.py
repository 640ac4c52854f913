"""Calls to memories, drawn at random, and what a memory should hold after them."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from attractor_proto.names import SLOTS
from attractor_server.sharding.placement import Owners
from attractor_server.sharding.slots import GROUPS

PAGE = 3
REPLACED = 1_000_000
NAMES = st.sampled_from(["a", "b", "n/a", "n/b", "c"])
MODELS = st.sampled_from(["tiny", "able"])
"""Of the same fields"""
TAGS = st.sampled_from(["x", "y"])
PLACES = st.integers(0, 100)
CALLS = st.one_of(
    st.tuples(st.just("create"), NAMES, st.sampled_from(["rewrite", "stream"]), MODELS),
    st.tuples(st.just("store"), NAMES, st.integers(1, 2 * PAGE)),
    st.tuples(st.just("erase"), NAMES, PLACES),
    st.tuples(st.just("replace"), NAMES, PLACES, st.integers(0, 2)),
    st.tuples(st.just("erase_by_id"), NAMES, PLACES),
    st.tuples(st.just("list_items"), NAMES),
    st.tuples(st.just("fork"), NAMES, NAMES, st.none() | TAGS),
    st.tuples(st.just("snapshot"), NAMES, TAGS),
    st.tuples(st.just("restore"), NAMES, TAGS),
    st.tuples(st.just("forget_snapshot"), NAMES, TAGS),
    st.tuples(st.just("rebuild"), NAMES, MODELS),
    st.tuples(st.just("use_while_restoring"), NAMES, TAGS, PLACES),
    st.tuples(st.just("use_while_rebuilding"), NAMES, MODELS, PLACES),
    st.tuples(st.just("by_file"), NAMES, NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("query"), NAMES, PLACES),
)
"""Names and arguments of rules"""


@dataclass
class Expected:
    """What a memory should hold: numbers of patterns, each of which says what its id and values are."""

    model: str
    ids: list[int] = field(default_factory=list)
    version: int = 0
    tags: dict[str, "Expected"] = field(default_factory=dict)

    def copy(self) -> "Expected":
        """The same without snapshots."""
        return Expected(self.model, list(self.ids), self.version)


def owners(part: float, seed: int) -> Owners:
    """Who owns each slot where the second shard has that part of the groups."""
    groups = np.random.default_rng(seed).permutation(GROUPS) < round(part * GROUPS)
    return np.tile(groups.astype(np.int32), SLOTS // GROUPS)


def pattern(number: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.random.default_rng(number).random((4, 4), dtype=np.float32)


def id_of(number: int) -> str:
    """Return the id of a pattern; what replaces it has a number that is higher by `REPLACED`."""
    return str(number % REPLACED)
