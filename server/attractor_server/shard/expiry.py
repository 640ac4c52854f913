"""Deletion of memories whose time is over, each by the shard that owns it."""

import asyncio
import logging
import time
from functools import partial

import anyio

from attractor_server.errors import ServerError
from attractor_server.memories.items import Expired
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.outcomes import Deleted, OutcomeFuture, outcome_of
from attractor_server.scheduling.jobs import Job
from attractor_server.shard.shard import Shard

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0

CLEAR_EVERY_S = 300.0

CLEAR_PAUSE_S = 0.01
"""Others have the store in between"""


async def clear(shard: Shard) -> None:
    """Forget what shards that died have left half done, now and again and again, until cancelled."""
    while shard.durable:
        try:
            await _clear_once(shard)
        except ServerError as error:
            logger.warning("what was left half done cannot be forgotten now: %s", error)
        await anyio.sleep(CLEAR_EVERY_S)


async def _clear_once(shard: Shard) -> None:
    steps = await shard.memories.ask(lambda store: store.forget_leftovers())
    more = True
    while more:
        more = await shard.memories.ask(lambda _: next(steps, False) is None)
        await anyio.sleep(CLEAR_PAUSE_S)


async def sweep(shard: Shard) -> None:
    """Delete memories and erase items whose time is over, again and again, until cancelled."""
    erasing: set[str] = set()
    while True:
        await anyio.sleep(SWEEP_EVERY_S)
        if shard.newest is None or shard.draining.is_set():
            continue
        try:
            for name in await shard.memories.find_expired_names():
                if shard.owner(name) is None:
                    forget(shard, await shard.memories.get(name, any_model=True))
            for name in await shard.memories.find_with_expired_items():
                if name not in erasing and shard.owner(name) is None:
                    erase_expired(shard, await shard.memories.get(name, any_model=True), erasing)
        except ServerError as error:  # tried again at the next turn
            logger.warning("memories and items whose time is over cannot be forgotten now: %s", error)


def erase_expired(shard: Shard, record: MemoryRecord, erasing: set[str]) -> None:
    """Queue the erasing of a memory's items whose time is over.

    It is among those `erasing` until that is done, and where it fails for a while longer.
    """
    shard.check_here(record)
    job = Job.edit_items(record, Expired(time.time()))
    erasing.add(record.name)

    def finish(answer: OutcomeFuture) -> None:
        if isinstance(error := outcome_of(answer), ServerError):
            logger.warning("items of memory %r whose time is over cannot be erased now: %s", record.name, error)
            asyncio.get_running_loop().call_later(CLEAR_EVERY_S, erasing.discard, record.name)
        else:
            erasing.discard(record.name)

    job.future.add_done_callback(finish)
    shard.batcher.add(job)


def forget(shard: Shard, record: MemoryRecord) -> None:
    """Queue the deletion of a memory, unless it is written before its turn."""
    shard.check_here(record)
    job = Job.delete(record, if_expired=True)
    job.future.add_done_callback(partial(_finish, shard, record))
    shard.batcher.add(job)


def _finish(shard: Shard, record: MemoryRecord, answer: OutcomeFuture) -> None:
    if isinstance(outcome_of(answer), Deleted):
        shard.memories.forget(record)
        shard.recorder.record_expired()
