"""Nodes of a Ray cluster end under the server that has shards on them."""

from tests.chaos.faults.databases import postgres
from tests.chaos.faults.killing import arguments
from tests.chaos.tally import Run, fault
from tests.support.cluster_calls import topology
from tests.support.ray_nodes import EACH, lose, ray_cluster
from tests.support.server_process import ServerProcess, server_process, until

NODES = 3


@fault("ray-node", times=20)
def ray_node(run: Run) -> None:
    """One of three Ray nodes is killed and another one comes, with PostgreSQL and a folder of artifacts."""
    with postgres() as database, ray_cluster(beside=NODES - 1) as cluster:
        kept = ("--backend-store-uri", database.store(), "--artifact-store", str(run.folder / "artifacts"))
        joined = ("--insecure", "--ray-address", cluster.address, "--advertise", "127.0.0.1")
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
