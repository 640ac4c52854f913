"""The Ray node of this process: it joins a cluster, or starts one of its own, quietly."""

import fcntl
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import ray
from ray.exceptions import RayError

from attractor_server.cluster.signals import sigterm_kept
from attractor_server.errors import SettingsError
from attractor_server.hosts import split_port

NAMESPACE = "attractor"

ANSWER_TIMEOUT_S = 5.0

OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""The least that Ray takes: no pattern ever goes through its object store."""

TOKENS = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
"""Variables that name a token"""

_IDLE = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's head that start processes of no use to a Ray of our own: none asks for more nodes, brings logs to
this terminal, or shows a dashboard"""

_FOLDER, _LOCK = "attractor-ray-", "lock"


@contextmanager
def ray_node(address: str) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or to one of our own that ends with the block.

    Raises:
        SettingsError: no cluster answers there, or Ray cannot start here.
    """
    _check_answers(address)
    if not address:
        make_token()
    logging.getLogger("ray").setLevel(logging.ERROR)
    with nullcontext() if address else _folder() as folder:
        try:
            with sigterm_kept(), _command_hidden(), nullcontext() if address else _leave_out_idle_processes():
                ray.init(
                    address=address or "local",
                    namespace=NAMESPACE,
                    include_dashboard=None if address else False,
                    object_store_memory=None if address else OBJECT_STORE_BYTES,
                    logging_level=logging.ERROR,
                    log_to_driver=False,  # shards hand over their own lines; Ray's stay in its folder
                    _temp_dir=folder,
                )
        except (OSError, ValueError, RuntimeError, RayError) as error:
            raise _no_cluster(address, error) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _command_hidden() -> Iterator[None]:
    """Keep the flags of this command, which may hold a password, out of what Ray keeps of whoever joins."""
    utils, name = ray._private.utils, "get_entrypoint_name"  # noqa: SLF001 - there is no setting for it
    before = getattr(utils, name, None)
    setattr(utils, name, lambda: "attractor")
    try:
        yield
    finally:
        if before is not None:
            setattr(utils, name, before)


@contextmanager
def _leave_out_idle_processes() -> Iterator[None]:
    """Leave out what a Ray of our own does not need: three processes, 260 MB, and the wait for one of them."""
    node = ray._private.node.Node  # noqa: SLF001 - `ray.init` has no settings for it
    before = {name: method for name in _IDLE if (method := getattr(node, name, None)) is not None}
    for name in before:
        setattr(node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)


@contextmanager
def _folder() -> Iterator[str]:
    """Make a folder for what Ray writes, removed after the block; remove those of servers that were killed."""
    parent = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    for left in parent.glob(f"{_FOLDER}*/{_LOCK}"):
        _remove_leftover(left)
    folder, lock = _make_locked(parent)
    with lock:
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what an agent of Ray writes later, the next server removes


def _make_locked(parent: Path) -> tuple[Path, BinaryIO]:
    """Make a folder, and hold its lock; another one where a server has just taken it for a leftover, before that."""
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))
            lock = (folder / _LOCK).open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            lock.close()
    except OSError as error:
        raise SettingsError(
            f"RAY_TMPDIR: saw {str(parent)!r}, where Ray cannot write: {error}; expected a folder of this user's"
        ) from error


def _remove_leftover(path: Path) -> None:
    """Remove the folder that has this lock, unless a server holds it, or it is another user's."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
    except OSError:
        return


def make_token() -> None:
    """Make the token by which a Ray of our own refuses strangers: in the environment of its processes, and in no file.

    What the environment says of tokens goes before.
    """
    if not TOKENS & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _check_answers(address: str) -> None:
    """Raise SettingsError if nothing answers at the address: Ray itself would wait for minutes."""
    host, port = split_port(address)
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> SettingsError:
    why = " ".join(str(error).split())
    if not address:
        return SettingsError(f"Ray cannot start here: {why}")
    return SettingsError(f"ray_address: saw {address!r}, where no Ray cluster can be joined: {why}")


def node_address() -> str:
    """Return the address at which other nodes reach the one this process runs on."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
