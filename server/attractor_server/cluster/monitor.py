"""One shard as the supervisor sees it: its status, the topology that it was sent, and its end."""

import logging
import time
from collections.abc import Collection

import ray
from ray.exceptions import ActorDiedError, RayError

from attractor_server.cluster.actors import Handle, end
from attractor_server.cluster.status import Logbook, ShardStatus
from attractor_server.cluster.wire import Message, pack_topology, unpack_status, unpack_topology
from attractor_server.sharding.topology import ShardInfo, Topology

logger = logging.getLogger(__name__)

UNRESPONSIVE_S = 3.0
"""Silence after which others take over what a shard has"""

DRAIN_S = 5.0


class ShardMonitor:
    """A shard's newest status, and the calls to it that are not answered yet."""

    def __init__(self, number: int, handle: Handle, logbook: Logbook) -> None:
        """Put lines that the shard logs in the `logbook`."""
        self.number = number
        self.status: ShardStatus | None = None
        self.failed = False
        """It ended before it ever answered, and will not be started again"""
        self.handle = handle
        self._logbook = logbook
        self._asked_s = time.monotonic()
        self._missing = False
        self._asked: ray.ObjectRef[Message] | None = None
        self._sent: ray.ObjectRef[None] | None = None
        self._sent_epoch = 0
        self._draining: ray.ObjectRef[bool] | None = None
        self.leaving = False
        """Its node will end: it keeps what it has until others can have it, and takes nothing"""

    @property
    def info(self) -> ShardInfo | None:
        """Address and device; None before its first answer."""
        return self.status.info if self.status else None

    @property
    def answers(self) -> bool:
        """Whether it answered lately."""
        return not self._missing and self.status is not None

    @property
    def serves(self) -> bool:
        """Whether it can own something."""
        return self.follows_orders and not self.leaving

    @property
    def follows_orders(self) -> bool:
        """Whether it can part with something, or take it."""
        return self.answers and self.status is not None and self.status.warm and self._draining is None

    @property
    def silent(self) -> bool:
        """Whether there is no hope of an answer in a moment."""
        return self._missing or time.monotonic() - self._asked_s > UNRESPONSIVE_S

    @property
    def ended(self) -> bool:
        """Whether the process that answered last is known to be over: of this machine's it is long before Ray tells."""
        return self.status is not None and self.status.process.is_over

    @property
    def held(self) -> frozenset[int]:
        """The groups that it has claimed, if it answers."""
        return self.status.held if self.status and self.answers else frozenset()

    def follows(self, topology: Topology) -> bool:
        """Return whether it has done what the topology says, as far as it can."""
        return self.status is not None and self.status.epoch == topology.epoch

    def ask(self) -> "ray.ObjectRef[Message]":
        """Ask for its status, unless that was asked and is not answered; return the answer to come."""
        if self._asked is None:
            self._asked, self._asked_s = self.handle.status.remote(), time.monotonic()
        return self._asked

    def note(self) -> None:
        """Take the answer, if it has come."""
        if self._asked is None:
            return
        if not ray.wait([self._asked], timeout=0)[0]:
            if self.status is not None and not self._missing:
                if self.ended:
                    self._note_silence("its process has ended")
                elif self.silent:
                    self._note_silence(f"no answer for {UNRESPONSIVE_S:g} s")
            return
        asked, self._asked = self._asked, None
        try:
            self._take_status(unpack_status(ray.get(asked)))
        except RayError as error:
            self.failed = self.status is None and isinstance(error, ActorDiedError)
            if not (self._missing or self.failed):
                self._note_silence(str(error))

    def send(self, topology: Topology, seize: Collection[int]) -> None:
        """Send it a topology, unless it was sent that one and has not answered."""
        if self._sent is not None:
            if not ray.wait([self._sent], timeout=0)[0] and self._sent_epoch == topology.epoch:
                return
            self._check(self._sent)
        self._sent, self._sent_epoch = self.handle.learn.remote(pack_topology(topology), sorted(seize)), topology.epoch

    def topology(self) -> Topology | None:
        """Fetch the newest topology that it was sent.

        Raises:
            RayError: it does not answer.
        """
        found: Message | None = ray.get(self.handle.topology.remote(), timeout=UNRESPONSIVE_S)
        return None if found is None else unpack_topology(found)

    def note_leaving(self, nodes: Collection[str]) -> bool:
        """Note whether it is on one of these nodes, which will end; return whether that is new."""
        leaving = self.status is not None and self.status.node in nodes
        was, self.leaving = self.leaving, leaving
        return leaving and not was

    def retire(self) -> bool:
        """End it once it has finished what it accepted, which begins at the first call; return whether it has ended."""
        if self._drain():
            end(self.handle)
            return True
        return False

    def leave_node(self) -> None:
        """End it once it has finished what it accepted, which begins at the first call; Ray starts it elsewhere."""
        if self._drain():
            ray.kill(self.handle, no_restart=False)
            self._draining, self._asked, self._sent, self.status = None, None, None, None
            self.leaving, self._missing = False, True

    def _drain(self) -> bool:
        if self._draining is None:
            self._draining = self.handle.drain.remote(DRAIN_S)
        return not self.answers or bool(ray.wait([self._draining], timeout=0)[0])

    @property
    def retiring(self) -> bool:
        """Whether it has begun to end for good."""
        return self._draining is not None and not self.leaving

    def _take_status(self, status: ShardStatus) -> None:
        self.status = status
        self._logbook.keep(*status.log)
        if self._missing:
            logger.warning("shard %d answers again, on %s", self.number, status.info.address)
            self._missing = False

    def _note_silence(self, why: str) -> None:
        self._missing = True
        if self.ended:
            logger.warning("shard %d has ended; Ray starts it again", self.number)
        else:
            logger.warning("shard %d does not answer; Ray starts it again if it has ended", self.number)
        logger.debug("shard %d: %s", self.number, why)

    def _check(self, sent: "ray.ObjectRef[None]") -> None:
        if ray.wait([sent], timeout=0)[0]:
            try:
                ray.get(sent)
            except RayError as error:
                logger.info("shard %d could not follow: %s", self.number, error)
