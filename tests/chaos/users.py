"""Processes of users that have one client object, made as a module of theirs is imported, and use it many times.

Each way of using it stores through openings of its own, all to the same memory, and writes down what it was told.
"""

import asyncio
import copy
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeAlias

from tests.chaos.checker import QUICK
from tests.chaos.ledger import Images, Ledger, patterns
from tests.support.forkserver import CONTEXT
from tests.support.shard_process import Hook

import attractor

USERS, REQUESTS = 4, 10
STORES = 5
"""Of each opening"""
CALL_S = 60.0
APART_S, REST_S = 0.01, 0.1
END_S = 180.0
Way: TypeAlias = Callable[["Using"], None]


@dataclass(frozen=True)
class Using:
    """What all that the process does has in common."""

    address: str
    memory: str
    """Which is there already"""
    ledger: Path

    @property
    def client(self) -> attractor.Client:
        """A client that is not open."""
        return attractor.Client(self.address, timeout_s=CALL_S, connect_timeout_s=CALL_S, retry=QUICK)

    @property
    def awaited(self) -> attractor.AsyncClient:
        """The same for asyncio."""
        return attractor.connect(self.address, timeout_s=CALL_S, connect_timeout_s=CALL_S, retry=QUICK)

    def numbers(self, user: int) -> Sequence[int]:
        """The patterns that a user of the client stores."""
        return range(user * STORES + 1, (user + 1) * STORES + 1)

    def pattern(self, number: int) -> Images:
        return patterns(self.memory, number)

    @contextmanager
    def noted(self, number: int) -> Iterator[Callable[[attractor.StoreResult], None]]:
        """Writes down that a pattern is sent, and what came of it."""
        book = Ledger(self.ledger)
        book.note("sent", self.memory, number)
        try:
            yield lambda answer: book.note("acknowledged", self.memory, answer.version, answer.total, number)
        except attractor.AttractorError as error:
            book.note("failed", self.memory, f"{type(error).__name__}: {error}")
        finally:
            book.close()


def open_again(using: Using) -> None:
    """One life after another; in each a memory of its own is deleted and gone, whatever the lives before did."""
    client, own = using.client, using.memory + "-own"
    for user in range(USERS):
        with client:
            memory = client.create_memory(own, model="tiny")
            assert memory.store(using.pattern(1)).version == 1, "a memory made anew had been stored to"
            _store(using, client, user)
            client.delete_memory(own)
            try:
                info = client.memory(own).info()
            except attractor.MemoryNotFound:
                continue
            raise AssertionError(f"a deletion was acknowledged, and the memory is there: {info}")


def copied(using: Using) -> None:
    """Copies of a client that is open, in threads of their own, at the same time as the client."""
    with using.client as client, ThreadPoolExecutor(USERS) as pool:
        copies = [copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))]
        done = [pool.submit(_open_and_store, using, one, user) for user, one in enumerate(copies)]
        _store(using, client, len(copies))
    for one in done:
        one.result()


def forked(using: Using) -> None:
    """Each of a few forked children opens the client, and then the parent does."""
    client = using.client
    children = [_child(partial(_open_and_store, using, client, user)) for user in range(USERS - 1)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(ends), f"forked children ended with {ends}"
    _open_and_store(using, client, USERS - 1)


def requested(using: Using) -> None:
    """Ten requests enter one client at once, those again that are told that it is open."""

    async def answer(client: attractor.AsyncClient, user: int) -> None:
        while True:
            try:
                async with client:
                    memory = client.memory(using.memory)
                    for number in using.numbers(user):
                        with using.noted(number) as note:
                            note(await memory.store(using.pattern(number)))
                        await asyncio.sleep(random.uniform(0, REST_S / USERS))
                    return
            except attractor.ClientOpen:
                await asyncio.sleep(APART_S)

    async def answer_all() -> None:
        client = using.awaited
        await asyncio.gather(*(answer(client, user) for user in range(REQUESTS)))

    asyncio.run(answer_all())


def _open_and_store(using: Using, client: attractor.Client, user: int) -> None:
    with client:
        _store(using, client, user)


def _store(using: Using, client: attractor.Client, user: int) -> None:
    memory = client.memory(using.memory)
    for number in using.numbers(user):
        with using.noted(number) as note:
            note(memory.store(using.pattern(number)))
        time.sleep(random.uniform(0, REST_S))


def _child(work: Callable[[], None]) -> int:
    """A forked child that does that and ends."""
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


WAYS: Mapping[str, Way] = {one.__name__: one for one in (open_again, copied, forked, requested)}


@contextmanager
def at_work(way: str, using: Using, hooks: Sequence[Hook], blame: Callable[[str], None]) -> Iterator[None]:
    """The process, from before the block until it has ended by itself; what went wrong in it is blamed."""
    line, theirs = CONTEXT.Pipe(duplex=False)
    process: BaseProcess = CONTEXT.Process(target=_main, args=(way, using, hooks, theirs))
    process.start()
    theirs.close()
    try:
        yield
        if said := _said(line):
            blame(f"users ({way}): {said}")
    finally:
        process.kill()
        process.join()


def _said(line: Connection) -> str:
    if not line.poll(END_S):
        return f"not done after {END_S:g} s"
    try:
        return str(line.recv())
    except EOFError:
        return "the process ended"


def _main(way: str, using: Using, hooks: Sequence[Hook], line: Connection) -> None:
    for hook in hooks:
        hook()
    try:
        WAYS[way](using)
    except Exception as error:
        line.send(f"{type(error).__name__}: {error}")
    else:
        line.send("")
