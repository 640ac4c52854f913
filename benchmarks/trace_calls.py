"""How many functions does one request pass through, from the SDK to the disk and back?

A client and a durable shard in this process and event loop, with one memory of `embedding-384` that is warm: a single
pattern is stored, queried and recognized. Each call of a Python function of the client and of the server is counted, in
all threads. A coroutine counts where it is begun, not where it goes on; comprehensions do not count. The repetition
with the fewest calls is shown, since the shard's other tasks (lease, expiry) run now and then. `--way` also prints the
files in their order.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from itertools import groupby
from pathlib import Path
from types import FrameType

import anyio
from _report import machine
from _tenants import MODEL, vectors

import attractor
import attractor_server
from attractor_server.app import run_shard
from attractor_server.model_registry import load_models
from attractor_server.shard.event_loop import loop_options
from attractor_server.shard.spec import ShardSpec
from attractor_server.sharding.topology import Topology
from attractor_server.storage.backends.sqlite_backend import uri_of

REPETITIONS = 12
"""Patterns that fit in one page, and in one chunk of the writing loop"""

WARM_AFTER = 4
"""Repetitions"""

_PACKAGES = {f"{Path(package.__file__ or '').parent}/": package.__name__ for package in (attractor, attractor_server)}

_RESUMABLE = CO_ASYNC_GENERATOR | CO_COROUTINE | CO_GENERATOR

_INLINE = ("comp>", "<genexpr>")
"""Ends of names of code that is no function of its own from Python 3.12 on, or might as well be none"""


@dataclass(frozen=True)
class Called:
    """A function that was called."""

    package: str
    file: str
    function: str


class Recorder:
    """Observer of calls of Python functions of this project, in all threads that begin after `install`."""

    def __init__(self) -> None:
        self._on = False
        self._calls: list[Called] = []

    def install(self) -> None:
        """Observe this thread and those that it starts."""
        threading.setprofile(self._observe)
        sys.setprofile(self._observe)

    @contextmanager
    def record(self) -> Iterator[list[Called]]:
        """Note the calls of the block."""
        self._calls, self._on = [], True
        try:
            yield self._calls
        finally:
            self._on = False

    def _observe(self, frame: FrameType, event: str, _: object) -> None:
        if not self._on or event != "call":
            return
        code = frame.f_code
        folder = next((folder for folder in _PACKAGES if code.co_filename.startswith(folder)), None)
        if folder is not None and not _goes_on(frame) and not code.co_name.endswith(_INLINE):
            file = code.co_filename.removeprefix(folder)
            self._calls.append(Called(_PACKAGES[folder], file, code.co_qualname))


def _goes_on(frame: FrameType) -> bool:
    """Return whether a generator or coroutine is resumed: RESUME has the argument 0 only at the start."""
    code = frame.f_code
    return bool(code.co_flags & _RESUMABLE and code.co_code[frame.f_lasti + 1] & 3)


async def traces(recorder: Recorder, data: Path) -> dict[str, list[Called]]:
    """Return the calls of each operation, those of the shortest of its repetitions."""
    values = vectors(REPETITIONS, load_models(None, device="cpu")[MODEL].layout.size)
    async with run_shard(ShardSpec(store_uri=uri_of(data), bank_bytes=64 << 20, warm_up=False)) as shard:
        await shard.learn(Topology(1, (shard.info,)))
        async with attractor.connect(shard.info.address) as client:
            memory = await client.create_memory("bench/traced", model=MODEL)
            operations: dict[str, Callable[[int], Awaitable[object]]] = {
                "store": lambda n: memory.store(values[n : n + 1]),
                "query": lambda n: memory.query(values[n]),
                "recognize": lambda n: memory.recognize(values[n]),
            }
            return {name: await shortest(recorder, operation) for name, operation in operations.items()}


async def shortest(recorder: Recorder, operation: Callable[[int], Awaitable[object]]) -> list[Called]:
    """Return the calls of the repetition that has the fewest."""
    seen: list[list[Called]] = []
    for n in range(REPETITIONS):
        await anyio.sleep(0.005)  # what the one before has left to be done is over
        with recorder.record() as calls:
            await operation(n)
        seen.append(calls)
    return min(seen[WARM_AFTER:], key=len)


def figures(calls: Sequence[Called]) -> dict[str, int]:
    """Return the columns of the table."""
    way = [file for file, _ in groupby((one.package, one.file) for one in calls)]
    return {
        "calls": len(calls),
        "of them client": sum(one.package == "attractor" for one in calls),
        "of them server": sum(one.package == "attractor_server" for one in calls),
        "functions": len(set(calls)),
        "files": len({(one.package, one.file) for one in calls}),
        "changes of file": len(way) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--way", action="store_true", help="print each file on the way, and the functions called there")
    show_way = parser.parse_args().way
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        recorder.install()
        seen = anyio.run(traces, recorder, Path(folder), backend_options=dict(loop_options()))
        sys.setprofile(None)
        threading.setprofile(None)
    for name, calls in seen.items():
        if show_way:
            print(f"\n{name}:")
            for (package, file), there in groupby(calls, key=lambda one: (one.package, one.file)):
                print(f"  {package}/{file}: {', '.join(one.function for one in there)}")
    print(f"\n{'':10}" + "".join(f"{column:>17}" for column in figures([])))
    for name, calls in seen.items():
        print(f"{name:10}" + "".join(f"{value:>17}" for value in figures(calls).values()))
    for name, calls in seen.items():
        print(json.dumps({"name": name, **figures(calls), "machine": machine()}))


if __name__ == "__main__":
    main()
