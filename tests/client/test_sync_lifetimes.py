"""The synchronous client's life: opened again, copied, forgotten, forked, and left open at the end."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.support.fake_server import FakeServer

import attractor

ONE = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
COPIES: list[Callable[[attractor.Client], attractor.Client]] = [
    copy.copy,
    copy.deepcopy,
    lambda client: pickle.loads(pickle.dumps(client)),
]


def run(script: str, server: FakeServer) -> str:
    """What a script prints that ends by itself."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, server.address]
    users = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    return subprocess.run(command, env=users, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_synchronous_client_is_opened_again_and_its_former_memories_are_closed(server: FakeServer) -> None:
    client = attractor.Client(server.address, timeout_s=20)
    for total in (1, 2):
        with client:
            memory = client.create_memory("faces", model="tiny")
            assert memory.store(ONE).total == total
        with client, pytest.raises(attractor.Closed, match="the client was closed"):
            memory.query(ONE)
        with pytest.raises(attractor.Closed):
            memory.query(ONE)
    assert len({session.client_id for session in server.sessions}) == 4


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_a_copy_of_an_open_synchronous_client_is_another_one(
    server: FakeServer, copied: Callable[[attractor.Client], attractor.Client]
) -> None:
    with attractor.Client(server.address, timeout_s=20) as one:
        memory = one.create_memory("faces", model="tiny")
        with pytest.raises(attractor.Closed):
            copied(one).models()
        with copied(one) as other:
            assert [made.store(ONE).total for made in (memory, other.memory("faces"), memory)] == [1, 2, 3]
        assert memory.store(ONE).total == 4


def test_of_threads_that_open_one_client_one_does_and_the_others_are_told(server: FakeServer) -> None:
    client = attractor.Client(server.address, timeout_s=20)

    def enter(_: int) -> bool:
        try:
            client.__enter__()
        except attractor.ClientOpen:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(enter, range(8))) == 1
        memory = client.create_memory("faces", model="tiny")
        totals = list(threads.map(lambda _: memory.store(ONE).total, range(20)))
    client.__exit__(None, None, None)
    assert sorted(totals) == list(range(1, 21))


def test_a_client_that_nobody_has_any_more_is_closed(server: FakeServer) -> None:
    before = set(threading.enumerate())
    client = attractor.Client(server.address, timeout_s=20)
    client.__enter__()
    (thread,) = (thread for thread in threading.enumerate() if thread not in before)
    memory = client.create_memory("faces", model="tiny")
    del client
    gc.collect()
    assert memory.store(ONE).total == 1  # a memory keeps it
    del memory
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


_UNCLOSED = """
import sys
import numpy as np
import attractor

client = attractor.Client(sys.argv[1], timeout_s=20)
client.__enter__()
memory = client.memory("faces")
stream = memory.stream().__enter__()
for result in stream.store(iter([np.ones((2, 3), np.float32)] * 3)):
    print(result.total)
"""


def test_a_script_that_leaves_its_client_open_ends(server: FakeServer) -> None:
    server.add("faces")
    assert run(_UNCLOSED, server).split() == ["1", "2", "3"]


_FORKED = """
import asyncio, os, sys
import numpy as np
import attractor

ONE = np.ones((2, 3), np.float32)

def told(what):
    try:
        return what()
    except attractor.AttractorError as error:
        return error.reason

async def reopened():
    async with attractor.connect(sys.argv[1]) as other:
        return await other.models()

def in_child(how):
    print("asked", told(lambda: memory.query(ONE)), told(client.models), flush=True)
    print("streamed", told(lambda: next(stream.store([ONE]))), flush=True)
    print("opened", told(client.__enter__), told(lambda: asyncio.run(reopened())), flush=True)
    stream.__exit__(None, None, None)
    client.__exit__(None, None, None)
    print("left", told(client.models), flush=True)
    if how == "exit":
        os._exit(0)

client = attractor.Client(sys.argv[1], timeout_s=3600)
with client:
    memory = client.memory("faces")
    with memory.stream() as stream:
        for how in 5 * ["exit"] + ["run to the end"]:
            if not (child := os.fork()):
                in_child(how)
                sys.exit(0)
            print("status", os.waitpid(child, 0)[1], flush=True)
            print("parent", memory.store(ONE).total, next(stream.store([ONE])).total, flush=True)
"""


def test_a_forked_child_is_refused_at_once_and_leaves_its_parent_alone(server: FakeServer) -> None:
    server.add("faces")
    lines = run(_FORKED, server).splitlines()
    told = ["asked WRONG_PROCESS WRONG_PROCESS", "streamed WRONG_PROCESS", "opened WRONG_PROCESS WRONG_PROCESS"]
    parent = [f"parent {total} {total + 1}" for total in range(1, 12, 2)]
    expected = [line for own in parent for line in (*told, "left CLOSED", "status 0", own)]
    assert lines == expected
