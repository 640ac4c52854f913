"""Who owns which slot: always somebody, in balance, and moved no more than is needed."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attractor_proto.names import slot_of
from attractor_proto.v1 import memories_pb2 as pb
from attractor_proto.v1 import memories_pb2_grpc as rpc
from attractor_server.app import run_shard
from attractor_server.config import load_settings
from attractor_server.errors import SettingsError
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.placement import (
    LIMIT,
    Floats,
    Owners,
    cool,
    deal,
    imbalance,
    join,
    least_to_cool,
    leave,
    load_moved,
    loads_of,
)
from attractor_server.sharding.topology import Topology

EXACT = settings(deadline=None, max_examples=60)
SLACK = 1 + 1e-9


@dataclass(frozen=True)
class State:
    """A cluster at some time; any shard may be hot."""

    owners: Owners
    loads: Floats
    weights: Floats

    @property
    def mean(self) -> float:
        return float(self.loads.sum() / self.weights.sum())

    def levels(self, owners: Owners) -> Floats:
        return loads_of(owners, self.loads, self.weights) / self.weights


@st.composite
def states(draw: st.DrawFn, *, least: int = 2, spare: int = 0) -> State:
    """Slots dealt out, some of them lost to others since; the last `spare` shards have a weight and no slot."""
    slots = draw(st.sampled_from([8, 32, 128]))
    shards = draw(st.integers(least, 8))
    elements = st.one_of(st.integers(1, 9), st.integers(1, 500)).map(float)
    loads = draw(arrays(np.float64, slots, elements=elements, fill=st.just(5.0)))
    weights = draw(
        arrays(np.float64, shards + spare, elements=st.sampled_from([1.0, 1.0, 2.0, 4.0]), fill=st.nothing())
    )
    owners = deal(slots, weights[:shards])
    strays = draw(st.lists(st.tuples(st.integers(0, slots - 1), st.integers(0, shards - 1)), max_size=8))
    for slot, shard in strays:
        owners[slot] = shard
    return State(owners, loads, weights)


def granted(state: State) -> float:
    """The level that the heaviest slot may add to the mean."""
    return float(state.loads.max() * len(state.weights) / state.weights.sum())


@EXACT
@given(
    slots=st.sampled_from([64, 1024, 4096]), weights=st.lists(st.sampled_from([1.0, 1.5, 3.0]), min_size=1, max_size=40)
)
def test_slots_are_dealt_out_by_weight_to_within_one(slots: int, weights: list[float]) -> None:
    owners = deal(slots, np.array(weights))
    counts = np.bincount(owners, minlength=len(weights))
    assert counts.sum() == slots
    assert np.abs(counts - slots * np.array(weights) / sum(weights)).max() < SLACK


@pytest.mark.parametrize("shards", [1, 2, 3, 16, 1000, 1024])
def test_equal_shards_get_slots_in_turn(shards: int) -> None:
    assert deal(1024, np.ones(shards)).tolist() == [slot % shards for slot in range(1024)]
    assert deal(1024, np.full(shards, 0.1)).tolist() == [slot % shards for slot in range(1024)]


@EXACT
@given(state=states(spare=1))
def test_a_join_moves_slots_to_the_newcomer_only_and_no_more_than_its_share(state: State) -> None:
    newcomer = len(state.weights) - 1
    after = join(state.owners, state.loads, state.weights, newcomer)
    assert set(after[after != state.owners].tolist()) <= {newcomer}
    share = state.mean * state.weights[newcomer]
    assert load_moved(state.owners, after, state.loads) <= share * SLACK
    assert imbalance(after, state.loads, state.weights) <= imbalance(state.owners, state.loads, state.weights) * SLACK


@EXACT
@given(state=states(spare=1))
def test_after_a_join_nothing_that_would_fit_is_left_above_the_mean(state: State) -> None:
    newcomer = len(state.weights) - 1
    after = join(state.owners, state.loads, state.weights, newcomer)
    room = state.mean * state.weights[newcomer] - state.loads[after == newcomer].sum()
    above = state.levels(after)[after] > state.mean * SLACK
    assert not np.any(above & (state.loads < room / SLACK) & (after != newcomer))


@EXACT
@given(state=states(), data=st.data())
def test_a_leave_moves_the_slots_of_the_one_that_left_only_and_leaves_it_none(
    state: State, data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, len(state.weights) - 1))
    weights = state.weights.copy()
    weights[gone] = 0
    after = leave(state.owners, state.loads, weights, gone)
    assert np.array_equal(after != state.owners, state.owners == gone)
    rest = np.flatnonzero(weights)
    highest = (loads_of(state.owners, state.loads, weights)[rest] / weights[rest]).max()
    levels = loads_of(after, state.loads, weights)[rest] / weights[rest]
    granted = (state.loads.sum() + len(rest) * state.loads.max()) / weights.sum()
    assert levels.max() <= max(highest, granted) * SLACK


@EXACT
@given(state=states(), limit=st.sampled_from([1.01, LIMIT, 1.5]))
def test_after_cooling_no_shard_is_above_the_limit_but_by_what_cannot_be_cut(state: State, limit: float) -> None:
    after = cool(state.owners, state.loads, state.weights, limit)
    alone = np.zeros(len(state.weights))
    np.maximum.at(alone, after, state.loads)
    bound = max(limit * state.mean, state.mean + granted(state), (alone / state.weights).max())
    assert state.levels(after).max() <= bound * SLACK
    assert imbalance(after, state.loads, state.weights) <= imbalance(state.owners, state.loads, state.weights) * SLACK


@EXACT
@given(state=states(), limit=st.sampled_from([1.01, LIMIT, 1.5]))
def test_cooling_takes_from_hot_shards_only_and_nothing_that_could_have_stayed(state: State, limit: float) -> None:
    after = cool(state.owners, state.loads, state.weights, limit)
    levels, bound = state.levels(state.owners), limit * state.mean
    for shard, level in enumerate(levels):
        lost = state.loads[(state.owners == shard) & (after != shard)]
        if level <= bound:
            assert not lost.size
        elif lost.size:
            kept = loads_of(state.owners, state.loads, state.weights)[shard] - lost.sum()
            alone = state.loads[state.owners == shard].max()
            assert kept + lost.min() > max(bound * state.weights[shard], alone) / SLACK


@EXACT
@given(state=states(spare=1))
def test_the_same_state_gives_the_same_owners_and_is_not_changed(state: State) -> None:
    kept = replace(state, owners=state.owners.copy(), loads=state.loads.copy(), weights=state.weights.copy())
    newcomer = len(state.weights) - 1
    calls: tuple[Callable[[State], Owners], ...] = (
        lambda s: join(s.owners, s.loads, s.weights, newcomer),
        lambda s: leave(s.owners, s.loads, np.where(np.arange(len(s.weights)) == 0, 0, s.weights), 0),
        lambda s: cool(s.owners, s.loads, s.weights),
    )
    for call in calls:
        answer = call(state)
        assert answer.shape == state.owners.shape
        assert answer.min() >= 0
        assert answer.max() < len(state.weights)
        assert np.array_equal(answer, call(kept))
        assert np.array_equal(state.owners, kept.owners)


@EXACT
@given(seed=st.integers(0, 2**32), events=st.lists(st.integers(0, 7), max_size=40))
def test_shards_that_come_and_go_for_long_stay_in_balance(seed: int, events: list[int]) -> None:
    loads = np.random.default_rng(seed).multinomial(100_000, np.full(1024, 1 / 1024)).astype(np.float64)
    weights = np.ones(8)
    owners = deal(1024, weights)
    for shard in events:
        if weights[shard]:
            if weights.sum() == 1:
                continue
            weights[shard] = 0
            after = leave(owners, loads, weights, shard)
            assert load_moved(owners, after, loads) == loads[owners == shard].sum()
        else:
            weights[shard] = 1
            after = join(owners, loads, weights, shard)
            assert 0.9 < load_moved(owners, after, loads) * weights.sum() / loads.sum() <= SLACK
        owners = after
        assert imbalance(owners, loads, weights) < 1.1


def test_a_worked_example_comes_out_as_by_hand() -> None:
    loads = np.array([8.0, 1, 1, 2, 3, 1, 2, 2])
    owners = deal(8, np.ones(2))  # 0 has 8 + 1 + 3 + 2, 1 has 1 + 2 + 1 + 2
    assert loads_of(owners, loads, np.ones(2)).tolist() == [14, 6]
    cooled = cool(owners, loads, np.ones(2))  # 11 are allowed, so 3 must go: the slot of 3
    assert np.flatnonzero(cooled != owners).tolist() == [4]
    assert least_to_cool(owners, loads, np.ones(2)) == pytest.approx(3)
    joined = join(cooled, loads, np.ones(3), 2)  # 6.67 each: 2 and 1 come from 0, 2 and 1 from 1, and 8 does not fit
    assert loads_of(joined, loads, np.ones(3)).tolist() == [8, 6, 6]
    assert loads_of(leave(joined, loads, np.array([0.0, 1, 1]), 0), loads, np.ones(3)).tolist() == [0, 14, 6]


def test_a_slot_too_heavy_for_any_shard_keeps_its_own_and_all_others_leave_it() -> None:
    loads = np.ones(64)
    loads[0] = 100
    after = cool(deal(64, np.ones(4)), loads, np.ones(4))
    assert np.flatnonzero(after == after[0]).tolist() == [0]
    assert np.bincount(after).max() == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(4, np.int32), np.zeros(4), np.ones(2)), "loads: saw 0 to 0"),
        ((np.full(4, 2, np.int32), np.ones(4), np.ones(2)), "owners: saw .* from 2 to 2; expected .* from 0 to 1"),
        ((np.zeros(4, np.int32), np.ones(8), np.ones(2)), r"owners: saw \(4,\)"),
        ((np.zeros(4, np.int32), np.ones(4), np.zeros(2)), "weights: saw"),
        ((np.zeros(4, np.int32), np.ones(4), np.array([1, np.nan])), "weights: saw"),
    ],
)
def test_a_state_that_cannot_be_is_refused(arguments: tuple[Owners, Floats, Floats], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cool(*arguments)
    with pytest.raises(ValueError, match="slots: saw 1000; expected a power of two"):
        deal(1000, np.ones(2))
    with pytest.raises(ValueError, match=r"weights\[1\]: saw 1; expected 0"):
        leave(np.zeros(4, np.int32), np.ones(4), np.ones(2), 1)


@given(name=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), power=st.integers(10, 20))
def test_a_slot_of_many_lies_within_one_of_the_1024(name: str, power: int) -> None:
    assert slot_of(name, 1 << power) % 1024 == slot_of(name)


@pytest.mark.parametrize("flags", [{"slots": "1000"}, {"slots": "512"}, {"slots": "1024", "shards": "2000"}])
def test_slots_that_cannot_be_dealt_out_are_refused_with_what_was_seen(flags: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"^slots: saw '?{flags['slots']}'?"):
        load_settings(flags)
    assert load_settings({"slots": "2048", "shards": "2000"}).slots == 2048


async def test_a_cluster_made_with_more_slots_tells_them_and_forwards_by_them(models: Path) -> None:
    async with AsyncExitStack() as stack:
        spec = ShardSpec(models=models, bank_bytes=1 << 20, warm_up=False)
        running = [await stack.enter_async_context(run_shard(replace(spec, number=n))) for n in range(2)]
        loads, owners = np.ones(4096), deal(4096, np.ones(1))
        owners = join(owners, loads, np.ones(2), 1)
        for shard in running:
            await shard.learn(Topology(1, tuple(shard.info for shard in running), owners))
        channels = [await stack.enter_async_context(aio.insecure_channel(shard.info.address)) for shard in running]
        topology = await rpc.ClusterStub(channels[0]).GetTopology(pb.GetTopologyRequest())
        assert np.bincount(topology.slot_owners).tolist() == [2048, 2048]
        for n in range(8):
            call = rpc.MemoriesStub(channels[0]).Create(pb.CreateRequest(name=f"m/{n}", model="tiny"))
            await call
            owner = topology.shards[topology.slot_owners[slot_of(f"m/{n}", 4096)]].address
            assert dict(await call.trailing_metadata()).get("attractor-route", running[0].info.address) == owner
