"""Nodes of a Ray cluster end under the server that has shards on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.chaos.faults.databases import postgres
from tests.chaos.faults.killing import arguments
from tests.chaos.tally import Run, fault
from tests.cluster.asking import topology
from tests.cluster.nodes import lose
from tests.cluster.process import ServerProcess, server_process, until

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODES = 3
EACH: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextmanager
def ray_cluster() -> Iterator["Cluster"]:
    """So many nodes on this machine."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - takes seconds

    import attractor_server.cluster  # noqa: F401, PLC0415 - sets what Ray reads while it is imported

    cluster = Cluster(initialize_head=True, head_node_args={**EACH, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**EACH)
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


@fault("ray-node", times=20)
def ray_node(run: Run) -> None:
    """One of three Ray nodes is killed and another one comes, with PostgreSQL and a folder of artifacts."""
    with postgres() as database, ray_cluster() as cluster:
        kept = ("--backend-store-uri", database.store(), "--artifact-store", str(run.folder / "artifacts"))
        joined = ("--ray-address", cluster.address, "--advertise", "127.0.0.1")
        with (
            server_process(*arguments(run, *kept, *joined, shards=NODES)) as server,
            run.checker(server.address) as checker,
        ):
            for _ in run.turns(checker):
                until(lambda: owners(server) == NODES, timeout_s=120)
                lose(cluster, run.random.choice([*cluster.worker_nodes]))
                cluster.add_node(**EACH)


def owners(server: ServerProcess) -> int:
    """How many shards own something, as its first shard knows."""
    return len({*topology(server.address).slot_owners})
