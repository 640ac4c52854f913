"""The shards of one server as its command sees them: it starts them, prints what they log, and ends them."""

import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError

from attractor_server.cluster.actors import Handle, end, find_shards, find_supervisor, is_supervisor_gone
from attractor_server.cluster.autoscaling import count_places
from attractor_server.cluster.ending import drain, end_all
from attractor_server.cluster.replacing import end_former_server
from attractor_server.cluster.shard_actor import start_shard
from attractor_server.cluster.status import ABANDONED_S, ShardStatus, SupervisorStatus
from attractor_server.cluster.supervisor import start_supervisor
from attractor_server.cluster.wire import (
    Message,
    check_tls,
    find_differences,
    pack_spec,
    unpack_status,
    unpack_supervisor_status,
)
from attractor_server.errors import ServerError, SettingsError, Unavailable
from attractor_server.shard.spec import ShardSpec

if TYPE_CHECKING:
    from attractor_server.cluster.standin import StandIn

logger = logging.getLogger(__name__)

LISTEN_EVERY_S = 0.5
READY_EVERY_S = 0.05
STATUS_TIMEOUT_S = 5.0
START_TIMEOUT_S = 120.0
WAITING_TOLD_S = (5.0, 60.0)
"""On a Ray cluster, time until it is said that shards wait for a place, and between such lines"""
LOST_S = 30.0
"""Silence of the supervisor after which this process is taken to have lost its Ray node; elsewhere all may be well"""
REFUSED_S = ABANDONED_S + 3.0
"""Time for which a supervisor that has a command is asked again"""
_OURS = f"{ServerError.__module__}."
"""Start of the name of an error of ours, in Ray's message"""


class Cluster:
    """Shards that a supervisor looks after. One thread prints what they log."""

    def __init__(self, supervisor: Handle, models: Sequence[str], *, password: str = "") -> None:
        """Give the supervisor the `password` of the store whenever it lacks that."""
        self.models = models
        """Names of the models that every shard serves"""
        self._supervisor = supervisor
        self._password = password
        self._status = SupervisorStatus(addresses=(), settled=False, log=())
        self._missing = False
        self.stopped = False
        """Whether another command has ended the server"""
        self._heard_s = time.monotonic()
        self._stop = threading.Event()

    @property
    def addresses(self) -> Sequence[str]:
        """Addresses of all shards, by number; any of them answers any client."""
        return self._status.addresses

    def wait_until_ready(self) -> None:
        """Return when each shard knows of all and serves.

        Raises:
            SettingsError: that takes too long.
        """
        end_s = time.monotonic() + START_TIMEOUT_S
        while not (self._status.addresses and self._status.settled):
            if time.monotonic() > end_s:
                raise SettingsError(f"shards: not all serve after {START_TIMEOUT_S:g} s; the log says more")
            self._listen()
            self._stop.wait(READY_EVERY_S)

    def listen(self) -> None:
        """Print what is logged until `stop`."""
        while not self._stop.wait(LISTEN_EVERY_S):
            self._listen()

    @property
    def lost(self) -> bool:
        """Whether there is no hope of an answer from the supervisor in this process."""
        return time.monotonic() - self._heard_s > LOST_S

    def check(self) -> None:
        """Make sure that the shards can still be reached.

        Raises:
            Unavailable: they are lost to this process.
        """
        if self.lost:
            raise Unavailable(
                f"the supervisor has not answered for {LOST_S:g} s: this process's Ray node is lost, or Ray's head; "
                "shards that are left go on, and `attractor serve` with the same settings takes them up"
            )

    def stop(self) -> None:
        """End `listen`."""
        self._stop.set()

    def drain(self, grace_s: float) -> bool:
        """Let every shard finish what it accepted; return whether all of them could."""
        self.stop()
        end(self._supervisor)
        return drain(find_shards(), grace_s)

    def leave(self) -> None:
        """Let another command have the shards from now on; one that comes later need not be told."""
        try:
            ray.get(self._supervisor.release.remote(), timeout=STATUS_TIMEOUT_S)
        except (RayError, ray.exceptions.GetTimeoutError) as error:
            logger.warning("the supervisor does not answer; the next command has to wait for a moment: %s", error)

    def _listen(self) -> None:
        try:
            self._status = unpack_supervisor_status(ray.get(self._supervisor.status.remote(), timeout=STATUS_TIMEOUT_S))
        except (RayError, ray.exceptions.GetTimeoutError) as error:
            self.stopped = isinstance(error, ActorDiedError) and is_supervisor_gone()
            if not (self._missing or self.stopped):
                logger.warning("the supervisor does not answer; shards go on, and Ray starts it again")
                logger.debug("the supervisor: %s", error)
            self._missing = True
            return
        self._heard_s = time.monotonic()
        if self._missing and self._status.addresses:
            logger.warning("the supervisor answers again")
            self._missing = False
        if self._status.lacks_password:
            self._supervisor.keep_password.remote(self._password)
        _print_log(self._status.log)


@contextmanager
def cluster(  # noqa: PLR0913
    spec: ShardSpec,
    *,
    shards: int,
    slots: int,
    log_level: str,
    leaves: bool = False,
    joined: bool = False,
    replaces_s: float | None = None,
    stand_in: "StandIn | None" = None,
) -> Iterator[Cluster]:
    """Run shards 0 to `shards` - 1 of this spec, each with the next port, until the block ends. Ray must be running.

    Where `shards` is 0 there is one for each node, as nodes come and go. A stand-in leaves when all could serve. Where
    it `leaves`, the shards go on after the block. A Ray cluster that was `joined` may get nodes for them later; it is
    waited for them.

    Shards of the same spec whose command has ended, or left them, are used as they are; those of another one end first,
    within `replaces_s` if there is such a time.

    Raises:
        SettingsError: a shard could not start.
    """
    own: list[Handle] = []
    """Started here, and of no use to anybody where the start fails"""
    try:
        told = replace(spec, password="")  # Ray keeps it
        found, supervisor = _take_over(told, slots, replaces_s)
        if supervisor is None:
            own.extend(start_shard(told, number, log_level) for number in range(shards or count_places(spec)))
            own.append(supervisor := start_supervisor(told, slots, log_level, follows_nodes=shards == 0))
            found = own[:-1]
        if spec.asks_password:
            supervisor.keep_password.remote(spec.password)
        if joined:
            _wait_for_places(found)
        running = Cluster(supervisor, _first_statuses(found)[0].models, password=spec.password)
        if stand_in is not None:
            _relieve(stand_in, found)
        running.wait_until_ready()
        listener = threading.Thread(target=running.listen, name="cluster listener", daemon=True)
        listener.start()
    except BaseException:
        end_all(own)
        raise
    try:
        yield running
    finally:
        running.stop()
        listener.join(2 * STATUS_TIMEOUT_S)
        if not (running.lost or running.stopped):  # else whoever comes next goes on with them, if they are there
            if leaves:
                running.leave()
            else:
                end(supervisor)
                end_all(find_shards())


def _relieve(stand_in: "StandIn", shards: Sequence[Handle]) -> None:
    """End the stand-in as soon as its clients need not wait for these shards."""
    while not all(status.warm for status in _first_statuses(shards)):
        time.sleep(READY_EVERY_S)
    stand_in.leave()


def _take_over(spec: ShardSpec, slots: int, replaces_s: float | None) -> tuple[Sequence[Handle], Handle | None]:
    """Take over such shards and their supervisor, if there are any that no command has; else return no supervisor.

    A supervisor without shards, whose command was killed before any had a place, is ended.
    """
    try:
        supervisor = find_supervisor()
    except ValueError:
        return (), None
    if not _adopts(supervisor, spec, slots, replaces_s):
        return (), None
    if shards := find_shards():
        return shards, supervisor
    end(supervisor)
    end_s = time.monotonic() + STATUS_TIMEOUT_S
    while not is_supervisor_gone() and time.monotonic() < end_s:
        time.sleep(READY_EVERY_S)
    return (), None


def _adopts(supervisor: Handle, spec: ShardSpec, slots: int, replaces_s: float | None) -> bool:
    """Ask a supervisor to be this command's; return False where another one has it, or it was ended.

    One that Ray has just started again does not answer yet, and knows of no command before it has heard of none for a
    while.

    Raises:
        SettingsError: its shards have other settings.
    """
    end_s = time.monotonic() + LOST_S
    refused = False
    while time.monotonic() < end_s:
        try:
            settings: Message = ray.get(supervisor.settings.remote(), timeout=STATUS_TIMEOUT_S)
            check_tls(spec, settings)
            if ray.get(supervisor.adopt.remote(pack_spec(spec), slots), timeout=STATUS_TIMEOUT_S):
                return True
            if other := find_differences({**pack_spec(spec), "slots": slots}, settings):
                if replaces_s is not None and end_former_server(supervisor, settings, other, grace_s=replaces_s):
                    return False
                raise SettingsError(
                    f"ray_address: the server in this Ray cluster has other settings ({', '.join(other)}); "
                    "expected the same, or `attractor stop` before"
                )
            if not refused:
                refused, end_s = True, time.monotonic() + REFUSED_S
        except ActorDiedError:
            return False
        except RayError as error:
            logger.debug("the supervisor: %s", error)
        time.sleep(LISTEN_EVERY_S)
    return False


def _print_log(log: Sequence[str]) -> None:
    for line in log:
        print(line, file=sys.stderr)  # noqa: T201 - it was logged already, over there


def _wait_for_places(shards: Sequence[Handle]) -> None:
    """Return when each shard has been started somewhere, or could not start; say now and then how many have not."""
    asked, pause_s = [shard.status.remote() for shard in shards], WAITING_TOLD_S[0]
    while lacking := len(ray.wait(asked, num_returns=len(asked), timeout=pause_s, fetch_local=False)[1]):
        logger.warning(
            "%d of %d shards have not started; each needs a node of the Ray cluster with a place for it",
            lacking,
            len(asked),
        )
        pause_s = WAITING_TOLD_S[1]


def _first_statuses(handles: Sequence[Handle]) -> Sequence[ShardStatus]:
    try:
        told: Sequence[Message] = ray.get([h.status.remote() for h in handles], timeout=START_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise SettingsError(
            f"shards: saw {len(handles)}, which Ray could not place within {START_TIMEOUT_S:g} s; "
            "expected no more than there are nodes and GPUs for"
        ) from error
    except RayActorError as error:
        raise _cause(error) from error
    statuses = [unpack_status(message) for message in told]
    for status in statuses:
        _print_log(status.log)
    return statuses


def _cause(error: RayActorError) -> ServerError:
    """Return the reason why the constructor failed, as it said itself."""
    text = str(error)
    for line in reversed(text.splitlines()):
        if line.startswith(_OURS):
            return SettingsError(line.partition(": ")[2])
    return SettingsError(f"a shard could not start: {text}")
