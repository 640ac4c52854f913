"""Ray itself: joining a cluster, or starting one inside this process, quietly."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from attractor_server.errors import SettingsError

NAMESPACE = "attractor"
ANSWER_TIMEOUT_S = 5.0
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""The least that Ray takes: no pattern ever goes through its object store."""


@contextmanager
def ray_node(address: str) -> Iterator[None]:
    """Connects to the Ray cluster at `address`, or to one of our own that ends with the block.

    Raises:
        SettingsError: no cluster answers there.
    """
    _check_answers(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local",
            namespace=NAMESPACE,
            include_dashboard=None if address else False,
            object_store_memory=None if address else OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,  # shards hand over their own lines; Ray's stay in its folder
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> SettingsError:
    return SettingsError(f"ray_address: saw {address!r}, where no Ray cluster can be joined: {error}")


def node_address() -> str:
    """The address at which other nodes reach the one this process runs on."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
