"""The shards of one server: started by Ray, watched, told of each other, and sent home."""

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError

from attractor_server.app import ShardSpec
from attractor_server.cluster.actor import ShardActor, ShardStatus
from attractor_server.errors import ServerError, SettingsError
from attractor_server.placement import dealt
from attractor_server.topology import Topology

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.5
WARM_EVERY_S = 0.05
STATUS_TIMEOUT_S = 5.0
START_TIMEOUT_S = 120.0
_OURS = f"{ServerError.__module__}."
"""What an error of ours begins with, in what Ray tells of it"""
Handle: TypeAlias = Any  # Ray's actor handles are made at run time


class Cluster:
    """Shards that know each other. One thread watches them: a shard that Ray restarted is told where it is."""

    def __init__(self, handles: Sequence[Handle], statuses: Sequence[ShardStatus], *, slots: int) -> None:
        self._handles = handles
        self._statuses = list(statuses)
        self._topology = Topology(1, tuple(status.info for status in statuses), dealt(slots, np.ones(len(statuses))))
        self._missing: set[int] = set()
        self._stop = threading.Event()

    @property
    def addresses(self) -> Sequence[str]:
        """Of all shards, by number; any of them answers any client."""
        return [shard.address for shard in self._topology.shards]

    @property
    def models(self) -> Sequence[str]:
        """Names of the models that every shard serves."""
        return self._statuses[0].models

    def tell(self) -> None:
        """Tells every shard of all, as soon as all are warm, and waits until each of them serves."""
        for status in self._statuses:
            _show(status.log)
        while not all(status.warm for status in self._statuses):
            self._look()
            self._stop.wait(WARM_EVERY_S)
        ray.get([handle.learn.remote(self._topology) for handle in self._handles], timeout=START_TIMEOUT_S)

    def watch(self) -> None:
        """Looks after the shards until told to stop."""
        while not self._stop.wait(WATCH_EVERY_S):
            self._look()

    def stop(self) -> None:
        """Ends `watch`."""
        self._stop.set()

    def drain(self, grace_s: float) -> bool:
        """Lets every shard finish what it accepted. Whether all of them could."""
        self.stop()
        asked = [handle.drain.remote(grace_s) for handle in self._handles]
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=grace_s + STATUS_TIMEOUT_S)
        finished = 0
        for answer in done:
            try:
                finished += ray.get(answer)
            except RayError as error:
                logger.warning("a shard ended before it was drained: %s", error)
        return finished == len(asked)

    def _look(self) -> None:
        """Asks each shard how it is; passes new addresses on to all, and what there is to know to who was restarted."""
        asked = [handle.status.remote() for handle in self._handles]
        ray.wait(asked, num_returns=len(asked), timeout=STATUS_TIMEOUT_S)
        for number, answer in enumerate(asked):
            self._note(number, answer)
        shards = tuple(status.info for status in self._statuses)
        if shards != self._topology.shards:
            self._topology = replace(self._topology, epoch=self._topology.epoch + 1, shards=shards)
        for number, status in enumerate(self._statuses):
            if status.warm and status.epoch < self._topology.epoch:
                logger.info("telling shard %d of epoch %d", number, self._topology.epoch)
                self._handles[number].learn.remote(self._topology)

    def _note(self, number: int, answer: "ray.ObjectRef[ShardStatus]") -> None:
        try:
            status = self._statuses[number] = ray.get(answer, timeout=0)
        except RayError as error:
            if number not in self._missing:
                logger.warning("shard %d does not answer; Ray starts it again, empty", number)
                logger.debug("shard %d: %s", number, error)
            self._missing.add(number)
            return
        _show(status.log)
        if number in self._missing:
            logger.warning("shard %d answers again, on %s", number, status.info.address)
            self._missing.discard(number)


def _show(log: Sequence[str]) -> None:
    for line in log:
        print(line, file=sys.stderr)  # noqa: T201 - it was logged already, over there


@contextmanager
def cluster(spec: ShardSpec, *, shards: int, slots: int, log_level: str) -> Iterator[Cluster]:
    """Shards 0 to `shards` - 1 of this spec, each with the next port; gone at the end. Ray must be running.

    Raises:
        SettingsError: a shard could not start.
    """
    handles = [_start(_numbered(spec, number), log_level) for number in range(shards)]
    try:
        running = Cluster(handles, _first_statuses(handles), slots=slots)
        running.tell()
        watcher = threading.Thread(target=running.watch, name="cluster watcher")
        watcher.start()
        try:
            yield running
        finally:
            running.stop()
            watcher.join()
    finally:
        for handle in handles:
            ray.kill(handle, no_restart=True)


def _numbered(spec: ShardSpec, number: int) -> ShardSpec:
    return replace(spec, number=number, port=spec.port + number if spec.port else 0)


def _start(spec: ShardSpec, log_level: str) -> Handle:
    actor = ray.remote(ShardActor)
    options = actor.options(
        name=f"shard-{spec.number}",
        num_cpus=0,  # threads are shared out by the spec
        num_gpus=1 if spec.device == "cuda" else 0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=4,
        scheduling_strategy="SPREAD",
    )
    try:
        return options.remote(spec, log_level)
    except ValueError as error:  # the name is taken
        raise SettingsError(
            f"ray_address: another server runs in this Ray cluster already ({error}); expected one without shards"
        ) from error


def _first_statuses(handles: Sequence[Handle]) -> Sequence[ShardStatus]:
    try:
        statuses: Sequence[ShardStatus] = ray.get([h.status.remote() for h in handles], timeout=START_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise SettingsError(
            f"shards: saw {len(handles)}, which Ray could not place within {START_TIMEOUT_S:g} s; "
            "expected no more than there are nodes and GPUs for"
        ) from error
    except RayActorError as error:
        raise _cause(error) from error
    return statuses


def _cause(error: RayActorError) -> ServerError:
    """Why the constructor failed, as it said itself."""
    text = str(error)
    for line in reversed(text.splitlines()):
        if line.startswith(_OURS):
            return SettingsError(line.partition(": ")[2])
    return SettingsError(f"a shard could not start: {text}")
