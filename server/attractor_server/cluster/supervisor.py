"""The supervisor: a Ray actor that starts shards, watches them, and assigns slots to them.

All that it knows it finds again after a restart: the shards by their names, and the topology with the shards. What they
own stands in the store; while there is no supervisor they go on.
"""

import logging
import threading
import time
from collections.abc import Set
from dataclasses import replace
from functools import partial
from math import inf

import numpy as np
import ray
from ray.exceptions import RayError

from attractor_server.cluster.actors import SUPERVISOR, Handle, end, find_shards, start_actor
from attractor_server.cluster.autoscaling import Autoscaler, count_places, find_leaving_nodes
from attractor_server.cluster.monitor import ShardMonitor
from attractor_server.cluster.shard_actor import start_shard
from attractor_server.cluster.status import ABANDONED_S, Logbook, SupervisorStatus
from attractor_server.cluster.wire import Message, pack_spec, pack_supervisor_status, unpack_spec
from attractor_server.logs import Facts, log_to, make_formatter
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.placement import Owners, deal, first, groups_of, reassign, spread
from attractor_server.sharding.topology import Topology

HEAD, HEAD_SHARE = "node:__internal_head__", 0.001
"""A resource of Ray's head node, and the supervisor's share of it: Ray is slow to see that another one is lost"""


def start_supervisor(spec: ShardSpec, slots: int, log_level: str, *, follows_nodes: bool) -> Handle:
    """Start the supervisor of the shards that were started before; after a stand-in it waits until it is asked.

    Raises:
        SettingsError: there is one already.
    """
    from attractor_server.cluster.supervisor import Supervisor  # noqa: PLC0415 - which imports this module

    options = {"max_concurrency": 4, "resources": {HEAD: HEAD_SHARE}}
    return start_actor(Supervisor, SUPERVISOR, options, pack_spec(spec), slots, log_level, follows_nodes)


logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.5

SETTLE_EVERY_S = (0.02, 0.1)
"""After a change, and for as long as it is not settled"""

ANSWER_TIMEOUT_S = 0.3
"""A shard that takes longer is asked no second time meanwhile"""


class Supervisor:
    """One thread looks after the shards; calls only leave word."""

    def __init__(self, told: Message, slots: int, log_level: str, follows_nodes: bool) -> None:
        """Find the shards there are: those that were just started, or that have been at work for long."""
        spec = unpack_spec(told)
        self._logbook = Logbook()
        formatter = make_formatter(unpack_spec(told).log_format, "supervisor")
        facts = Facts(part="supervisor")
        log_to(log_level, self._logbook, logging.StreamHandler(), formatter=formatter, facts=facts)
        self._spec = spec
        self._slots = slots
        self._log_level = log_level
        self._shards = [ShardMonitor(number, handle, self._logbook) for number, handle in enumerate(find_shards())]
        self._wanted = len(self._shards)
        self._follows_nodes = follows_nodes
        self._password: str | None = None
        self._begun = not spec.follows
        """No stand-in serves any more what the shards are to own"""
        self._autoscaler = Autoscaler(partial(count_places, spec), find_leaving=find_leaving_nodes)
        self._topology: Topology | None = None
        self._members: Set[int] = frozenset()
        self._orphans: frozenset[int] = frozenset()
        """Groups whose owner went silent, since all was settled"""
        self._settled = False
        self._pause_s = WATCH_EVERY_S
        self._listened_s = time.monotonic()
        self._wake = threading.Event()
        self._autoscaler.start()
        threading.Thread(target=self._run, name="supervisor", daemon=True).start()

    def status(self) -> Message:
        """Return the status of the shards to the command that runs the server, which asks once no stand-in serves."""
        self._listened_s = time.monotonic()
        if not self._begun:
            self._begun = True
            self._wake.set()
        addresses = tuple(shard.address for shard in self._topology.shards) if self._topology else ()
        lacks = self._spec.asks_password and self._password is None
        return pack_supervisor_status(
            SupervisorStatus(addresses=addresses, settled=self._settled, log=self._logbook.take(), lacks_password=lacks)
        )

    def adopt(self, told: Message, slots: int) -> bool:
        """Return True, and be the caller's, if these shards are what it would start, and no other command has them."""
        if time.monotonic() - self._listened_s < ABANDONED_S or (unpack_spec(told), slots) != (self._spec, self._slots):
            return False
        self._listened_s = time.monotonic()
        logger.warning("the command that ran this server is gone, and another one goes on")
        return True

    def keep_password(self, password: str) -> None:
        """Keep the password of the store, in memory alone, for shards to ask for when they start."""
        self._password = password

    def password(self) -> str | None:
        """Return the password of the store; None before the command has given it."""
        return self._password

    def settings(self) -> Message:
        """Return the settings of the shards."""
        return {**pack_spec(self._spec), "slots": self._slots}

    def release(self) -> None:
        """Be nobody's from now on: the command that ran the server leaves it to the next one."""
        self._listened_s = -inf
        logger.info("the command leaves the shards to the next one")

    def scale(self, shards: int) -> None:
        """Set how many shards there shall be; 0: as many as nodes."""
        logger.info("%s shards are wanted", shards or "as many as nodes")
        self._wanted, self._follows_nodes, self._settled = shards or self._wanted, shards == 0, False
        self._wake.set()

    def _run(self) -> None:
        while True:
            try:
                self._step()
            except Exception:  # of one look; the next may find things in order
                logger.exception("unforeseen error while looking after the shards")
            self._wake.wait(self._pause_s)
            self._wake.clear()

    def _step(self) -> None:
        # Shards: as many as are wanted, each asked how it is.
        self._follow_nodes()
        self._start_missing()
        self._poll()

        # The topology: of before a restart, or else the first one, once all shards can serve.
        if self._topology is None:
            self._topology = self._recover_topology() or self._first_topology()
        if (topology := self._topology) is None:
            self._pause_s = SETTLE_EVERY_S[1]
            return

        # Shards whose nodes are to end part with what they have before.
        self._leave_nodes(topology)

        # What has changed since is sent to the shards; one too many leaves once it has nothing.
        self._topology = self._update(topology)
        self._send(self._topology)
        self._retire()

        # Until all follow, the next step comes soon.
        self._settled = self._is_settled(self._topology)
        if self._settled:
            self._pause_s, self._orphans = WATCH_EVERY_S, frozenset()
        elif self._topology is not topology:
            self._pause_s = SETTLE_EVERY_S[0]
        else:
            self._pause_s = min(2 * self._pause_s, SETTLE_EVERY_S[1])

    def _follow_nodes(self) -> None:
        if not self._follows_nodes or self._topology is None:
            return
        wanted = self._autoscaler.target(self._wanted, whole=all(shard.answers for shard in self._shards))
        if wanted != self._wanted:
            logger.warning("%d shards follow the nodes of the Ray cluster, before: %d", wanted, self._wanted)
            self._wanted = wanted

    def _start_missing(self) -> None:
        while len(self._shards) < self._wanted:
            number = len(self._shards)
            logger.info("starting shard %d", number)
            self._shards.append(ShardMonitor(number, start_shard(self._spec, number, self._log_level), self._logbook))

    def _poll(self) -> None:
        asked = [(shard, shard.ask()) for shard in self._shards]
        awaited = [answer for shard, answer in asked if not shard.ended]
        if awaited:
            ray.wait(awaited, num_returns=len(awaited), timeout=ANSWER_TIMEOUT_S)
        for shard in self._shards:
            shard.note()
        last = self._shards[-1]
        if last.failed and self._topology is not None and last.number >= len(self._topology.shards):
            logger.error("shard %d could not be started; Ray's logs say why", last.number)
            end(self._shards.pop().handle)
            self._wanted, self._follows_nodes = len(self._shards), False  # else it would be tried for ever

    def _leave_nodes(self, topology: Topology) -> None:
        """Have shards on nodes that will end lose what they own, and start again elsewhere once they have nothing."""
        if not self._spec.durable:
            return  # a move would lose it at once
        for shard in self._shards:
            if shard.note_leaving(self._autoscaler.leaving_nodes):
                logger.warning("shard %d is on a node that will end: others take over what it has", shard.number)
            if shard.leaving and shard.number not in self._members and shard.follows(topology) and not shard.held:
                shard.leave_node()

    def _recover_topology(self) -> Topology | None:
        """Return the newest topology that a shard was sent, once every shard has answered or will not."""
        if any(shard.status is None and not shard.silent for shard in self._shards):
            return None
        newest: Topology | None = None
        for shard in self._shards:
            if shard.status and shard.status.known > (newest.epoch if newest else 0):
                try:
                    newest = shard.topology()
                except RayError as error:
                    logger.info("shard %d did not tell its topology: %s", shard.number, error)
        if newest is None:
            return None
        logger.warning("the supervisor was started anew, and goes on from epoch %d", newest.epoch)
        self._members = frozenset(newest.slot_owners.tolist())
        self._wanted = max(self._wanted, *(number + 1 for number in self._members))
        self._follows_nodes = newest.follows_nodes
        # A next one may have been told to a shard that does not answer, and told of one that was sent home since.
        return replace(newest, epoch=newest.epoch + 1, shards=newest.shards[: self._wanted])

    def _first_topology(self) -> Topology | None:
        """Make the first topology, once all shards can serve, and may."""
        if not self._begun:
            return None
        infos = tuple(shard.info for shard in self._shards if shard.info and shard.serves)
        if len(infos) < self._wanted:
            return None
        self._members = frozenset(range(self._wanted))
        kept = self._spec.durable
        owners = spread(first(len(infos)), self._slots) if kept else deal(self._slots, np.ones(len(infos)))
        return Topology(1, infos, owners, self._follows_nodes)

    def _update(self, topology: Topology) -> Topology:
        """Return the topology as it is now: the shards' addresses, and the owners of slots."""
        infos = list(topology.shards)
        for shard in self._shards[: len(infos) + 1]:
            if shard.info:
                infos[shard.number : shard.number + 1] = [shard.info]
        owners = self._assign(topology, len(infos))
        follows = self._follows_nodes
        if (tuple(infos), follows) == (topology.shards, topology.follows_nodes) and np.array_equal(
            owners, topology.slot_owners
        ):
            return topology
        return Topology(topology.epoch + 1, tuple(infos), owners, follows)

    def _assign(self, topology: Topology, shards: int) -> Owners:
        """Assign slots: where memories are kept, to all shards that serve and are to stay."""
        if not self._spec.durable:
            return topology.slot_owners
        serving = frozenset(shard.number for shard in self._shards[: min(self._wanted, shards)] if shard.serves)
        if not serving or serving == self._members:
            return topology.slot_owners
        logger.info("shards that own memories: %s, before: %s", sorted(serving), sorted(self._members))
        owners = reassign(groups_of(topology.slot_owners), self._members, serving)
        silent = self._members - {shard.number for shard in self._shards if shard.follows_orders}
        self._orphans = self._orphans.union(*(topology.groups(number) for number in silent))
        self._members = serving
        return spread(owners, self._slots)

    def _send(self, topology: Topology) -> None:
        """Send the topology to each shard that does not follow it yet.

        A group is taken from whoever has it, if that is silent, or all who answer have followed and none has the group.
        """
        followed = all(shard.follows(topology) for shard in self._shards if shard.serves)
        held = frozenset[int]().union(*(shard.held for shard in self._shards))
        for shard in self._shards[: len(topology.shards)]:
            wanted = topology.groups(shard.number)
            if shard.follows_orders and not (shard.follows(topology) and self._holds(shard, wanted)):
                logger.debug("telling shard %d of epoch %d", shard.number, topology.epoch)
                lacking = wanted - held
                shard.send(topology, lacking if followed else lacking & self._orphans)

    def _retire(self) -> None:
        """End the last shard when it has nothing left, if there are more than there shall be."""
        last = self._shards[-1]
        if (len(self._shards) <= self._wanted and not last.retiring) or self._topology is None:
            return
        if last.held or last.number in self._members or not self._is_held(self._topology):
            return
        if last.retire():
            logger.info("shard %d was sent home", last.number)
            self._shards.pop()
            shards = self._topology.shards[: len(self._shards)]
            self._topology = replace(self._topology, epoch=self._topology.epoch + 1, shards=shards)

    def _is_settled(self, topology: Topology) -> bool:
        return len(self._shards) == len(topology.shards) == self._wanted and self._is_held(topology)

    def _is_held(self, topology: Topology) -> bool:
        """Return whether all shards that answer follow the topology."""
        return all(
            shard.follows(topology) and self._holds(shard, topology.groups(shard.number))
            for shard in self._shards
            if shard.answers and not shard.retiring
        )

    def _holds(self, shard: ShardMonitor, wanted: Set[int]) -> bool:
        return not self._spec.durable or shard.held == wanted
