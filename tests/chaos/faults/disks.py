"""Disks that are full or slow, and the power cut."""

import fcntl
import os
import resource
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import psutil
from tests.chaos import hooks
from tests.chaos.ledger import patterns
from tests.chaos.load import made
from tests.chaos.tally import NotPossible, Run, fault, pause
from tests.chaos.verifying import damage_in
from tests.support.forkserver import CONTEXT
from tests.support.postgresql import PROGRAMS, PostgresServer, give, postgres_folder
from tests.support.shard_process import ShardProcess

import attractor

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN"""
NO_FLUSH = 2
"""What is not on the disk by then never comes there, not even the journal"""
DISK_BYTES, POSTGRES_BYTES = 64 << 20, 512 << 20
AWAY_S = 1.0
SLOW_S = 0.4


class Disk:
    """An ext4 in a file, mounted, that its owner may pull the plug of."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder, self._file = folder / "disk", folder / "disk.ext4"
        self.folder.mkdir()
        with self._file.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", str(self._file))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._file), str(self.folder))

    def unmount(self) -> None:
        _run("umount", str(self.folder))

    def cut_power(self) -> None:
        file = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(file, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(file)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


@contextmanager
def disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[Disk]:
    """A disk of its own below that folder.

    Raises:
        NotPossible: this user may not mount one.
    """
    try:
        mounted = Disk(folder, size_bytes)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise NotPossible(f"an ext4 of its own cannot be mounted: {said.strip()}") from error
    try:
        yield mounted
    finally:
        mounted.unmount()


@fault("power-cut", times=20, short=1)
def power_cut(run: Run) -> None:
    """An ext4 that is shut down under the server without a flush; every other time images are files of their own."""
    outside: Synchronized[int] = CONTEXT.Value("b", 1)
    hook = partial(hooks.images_outside_if, outside)
    with disk(run.folder) as plugged:
        data, artifacts = plugged.folder / "data", plugged.folder / "artifacts"
        with run.shard(hook, data=data, artifacts=artifacts) as shard, run.checker(shard.address) as checker:
            for _ in run.turns(checker):
                plugged.cut_power()
                shard.kill()
                plugged.unmount()
                plugged.mount()
                for damage in damage_in(data, artifacts):
                    run.tally.blame(damage)
                outside.value = not outside.value
                shard.start()
            shard.stop()


@fault("power-cut-postgres", times=20)
def power_cut_postgres(run: Run) -> None:
    """The same under PostgreSQL, which starts anew; the shard goes on."""
    if PROGRAMS is None:
        raise NotPossible("PostgreSQL is not installed")
    with postgres_folder() as folder, disk(folder, POSTGRES_BYTES) as plugged:
        give(plugged.folder)
        database = PostgresServer(plugged.folder)
        _run("sync", "--file-system", str(plugged.folder))  # making it did not
        database.start()
        spec = replace(run.spec(), store_uri=database.store())
        try:
            with ShardProcess(spec, *run.hooks) as shard, run.checker(shard.address) as checker:
                for _ in run.turns(checker):
                    plugged.cut_power()
                    database.kill()
                    plugged.unmount()
                    pause(run.random.uniform(0, AWAY_S))
                    plugged.mount()
                    database.start()
                shard.stop()
        finally:
            database.kill()


@fault("disk-full", times=10, short=1)
def disk_full(run: Run) -> None:
    """No room for a second, by a full ext4 or by a limit on the size of files."""
    try:
        with disk(run.folder) as small:
            _fill_up(run, small)
    except NotPossible:
        _fill_up(run, None)


def _fill_up(run: Run, small: Disk | None) -> None:
    data = (run.folder if small is None else small.folder) / "data"
    with run.shard(data=data) as shard, run.checker(shard.address) as checker:
        for _ in run.turns(checker):
            with limited(shard.pid, data) if small is None else filled(small.folder):
                if "failed and changed nothing" not in (said := run.do(probe(shard.address))):
                    run.tally.blame(f"a store on a full disk was told {said!r}")
        shard.stop()


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No byte is left on the disk inside the block."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def limited(pid: int, data: Path) -> Iterator[None]:
    """The process writes no file beyond what the smaller of its store's has, inside the block."""
    process = psutil.Process(pid)
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (min(path.stat().st_size for path in data.glob("*.db*")), before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, before)


async def probe(address: str) -> str:
    """What stores are told until one fails: room in the log lasts for some."""
    async with attractor.connect(address) as client:
        memory = client.memory("probe")
        try:
            await made(client, "probe", 0, timeout_s=2)
            for number in range(1, 2000):
                await memory.store(patterns("probe", number, 64), timeout_s=2)
        except attractor.AttractorError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


@fault("slow-disk", times=10)
def slow_disk(run: Run) -> None:
    """Every fsync takes up to 0.4 s."""
    with run.shard(partial(hooks.slow_disk, SLOW_S)) as shard, run.checker(shard.address) as checker:
        for _ in run.turns(checker):
            pause(1.0)
        shard.stop()


@fault("synced", times=5)
def synced(run: Run) -> None:
    """No fault: every commit is synchronised before anybody is told of it."""
    watched = run.folder / "unsynced"
    with run.shard(partial(hooks.watch_syncs, watched)) as shard, run.checker(shard.address) as checker:
        for _ in run.turns(checker):
            pause(0.5)
        shard.stop()
    if watched.exists():
        for line in watched.read_text().splitlines():
            run.tally.blame(line)
