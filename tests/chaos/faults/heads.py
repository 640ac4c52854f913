"""The head of a Ray cluster is away for a while, or for good, under the server that has shards on the cluster."""

from contextlib import ExitStack

from tests.chaos.faults.databases import postgres
from tests.chaos.faults.killing import SHARDS, arguments
from tests.chaos.faults.nodes import owners
from tests.chaos.ledger import failures
from tests.chaos.tally import Run, fault, pause
from tests.support.cluster_calls import port_of, scaled
from tests.support.ray_nodes import below, free_port, head, head_of, lose, ray_cluster
from tests.support.server_process import ServerProcess, server_process, until

AWAY_S = 5.0


def in_order(server: ServerProcess) -> None:
    """All that the supervisor is there for works: more shards and fewer, and what a killed one had is taken over."""
    scaled(server, SHARDS - 1)
    scaled(server, SHARDS)
    below()[port_of(server, SHARDS - 1)].kill()
    until(lambda: owners(server) == SHARDS - 1)
    until(lambda: owners(server) == SHARDS)


@fault("ray-head", times=10)
def ray_head(run: Run) -> None:
    """What Ray's head knows is away for up to 5 s: shards serve on, and all is in order when it is back."""
    with (
        postgres() as database,
        ray_cluster(beside=SHARDS, **head(run.folder / "gcs"), gcs_server_port=free_port()) as cluster,
    ):
        kept = ("--backend-store-uri", database.store(), "--artifact-store", str(run.folder / "artifacts"))
        joined = ("--insecure", "--ray-address", cluster.address, "--advertise", "127.0.0.1")
        with server_process(*arguments(run, *kept, *joined)) as server, run.checker(server.address) as checker:
            for _ in run.turns(checker):
                node = head_of(cluster)
                node.kill_gcs_server()
                checker.served()
                pause(run.random.uniform(0, AWAY_S))
                checker.served()
                node.start_gcs_server()  # type: ignore[no-untyped-call]
                in_order(server)
    for failure in failures(run.folder / "ledger"):
        run.tally.blame(failure)


@fault("ray-head-lost", times=4)
def ray_head_lost(run: Run) -> None:
    """The whole head node ends, and every second time all it knew; `attractor serve` is started again."""
    port = free_port()
    with postgres() as database, ExitStack() as nodes, ExitStack() as servers:
        folder = run.folder / "gcs"
        cluster = nodes.enter_context(ray_cluster(beside=SHARDS, **head(folder), gcs_server_port=port))
        kept = ("--backend-store-uri", database.store(), "--artifact-store", str(run.folder / "artifacts"))
        words = arguments(run, *kept, "--insecure", "--ray-address", cluster.address, "--advertise", "127.0.0.1")
        server = servers.enter_context(server_process(*words))
        with run.checker(server.address) as checker:
            for number in run.turns(checker):
                lose(cluster, head_of(cluster))
                if number % 2:
                    nodes.close()
                    folder = run.folder / f"gcs-{number}"
                    cluster = nodes.enter_context(ray_cluster(beside=SHARDS, **head(folder), gcs_server_port=port))
                else:
                    cluster.add_node(**head(folder), gcs_server_port=port)
                until(lambda: server.process.poll() is not None, timeout_s=120)  # noqa: B023 - it is called here
                servers.close()
                server = servers.enter_context(server_process(*words))
                in_order(server)
