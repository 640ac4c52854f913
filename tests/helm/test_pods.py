"""Rendered pods, run as processes in namespaces: they start, pass their probes and `helm test`, and end in time."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.support.charts import Document, find, rendered_of
from tests.support.helm_tools import HELM
from tests.support.kubelet import Kubelet, Pod, kubelet, missing, reachable
from tests.support.postgresql import PostgresServer
from tests.support.server_process import until

import attractor

pytestmark = [
    pytest.mark.skipif(not HELM.exists(), reason="there is no Helm in build/tools: make tools fetches it"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "none"),
]

NAME = "one-attractor"
WAIT_S = 120.0
QUICK = {"insecure": True, "server.extraSettings": {"ATTRACTOR_WARM_UP": "no"}}
"""Values of servers that start sooner"""


TOKEN = {"ray-token": {"auth_token": "0123456789abcdef" * 4}}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Kubelet]:
    folder = tmp_path / "node"
    folder.mkdir()
    with kubelet(folder, TOKEN) as running:
        yield running


def started(node: Kubelet, given: Document, number: int = 0) -> Pod:
    """A pod of a StatefulSet, once its first container's startup probe has succeeded."""
    name, service = f"{given['metadata']['name']}-{number}", given["spec"]["serviceName"]
    pod = node.run(name, given["spec"]["template"], names=[f"{name}.{service}.ns.svc"])
    first = given["spec"]["template"]["spec"]["containers"][0]

    def answers() -> bool:
        node.revive(pod)
        return pod.answers(first["startupProbe"])

    until(answers, timeout_s=WAIT_S)
    return pod


def tried(node: Kubelet, documents: Sequence[Document]) -> str:
    """What the pod of `helm test` says."""
    test = find(documents, "Pod")
    pod = node.run("test", {"spec": test["spec"]})
    assert pod.containers["round-trip"].wait(WAIT_S) == 0, pod.log("round-trip")
    return pod.log("round-trip")


def test_the_standalone_pod_starts_serves_ends_in_time_and_finds_its_volume_again(node: Kubelet) -> None:
    documents = rendered_of(QUICK)
    given = find(documents, "StatefulSet")
    pod = started(node, given)
    node.point(f"{NAME}.ns.svc", [pod])
    assert "stored, recalled and deleted" in tried(node, documents)
    patterns = np.sign(np.random.default_rng(0).normal(size=(4, 128))).astype(np.float32)
    with attractor.Client(f"{pod.address}:7171", direct=False) as client:
        client.create_memory("kept", model="binary-128").store(patterns)
    assert pod.stop() == {"attractor": 0}
    again = started(node, given)
    assert again.address != pod.address
    with attractor.Client(f"{again.address}:7171", direct=False) as client:
        assert (np.sign(client.memory("kept").query(patterns).pattern) == patterns).all()
    assert again.stop() == {"attractor": 0}


class Load:
    """Clients that store one pattern after another, each in a memory of its own."""

    def __init__(self, address: str, clients: int = 4) -> None:
        self.stored = [0] * clients
        self.errors: list[Exception] = []
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Return when each client has stored some more, or one has failed."""
        before = list(self.stored)

        def advanced() -> bool:
            return bool(self.errors) or all(now > then + 2 for now, then in zip(self.stored, before, strict=True))

        until(advanced, timeout_s=WAIT_S)

    def _run(self, number: int) -> None:
        patterns = np.sign(np.random.default_rng(number).normal(size=(1, 128))).astype(np.float32)
        try:
            with attractor.Client(self._address, timeout_s=120) as client:
                memory = client.create_memory(f"load/{number}", model="binary-128")
                while not self._stop.is_set():
                    memory.store(patterns)
                    self.stored[number] += 1
        except Exception as error:
            self.errors.append(error)


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not os.environ.get("ATTRACTOR_PODS"), reason="it takes minutes: ATTRACTOR_PODS=yes runs it")
def test_nothing_is_lost_while_pods_of_a_cluster_are_rolled_killed_and_replaced(
    node: Kubelet, postgres: PostgresServer
) -> None:
    with reachable(urlsplit(postgres.uri).port or 0) as database:
        uri = postgres.store().replace(urlsplit(postgres.uri).netloc, f"attractor@{database}")
        values = {
            **QUICK,
            "mode": "cluster",
            "backend.uri": uri,
            "cluster.ray.existingTokenSecret": "ray-token",
            "resources.requests.cpu": "1",
        }
        documents = rendered_of(values)
        heads, shards = find(documents, "StatefulSet", f"{NAME}-head"), find(documents, "StatefulSet", NAME)
        head = started(node, heads)
        pods = [started(node, shards, number) for number in (0, 1)]
        ready(node, pods)
        assert "stored, recalled and deleted" in tried(node, documents)
        with Load(f"{pods[1].address}:7171") as load:
            load.goes_on()

            # A shard's pod is told to end, and comes back at another address
            pods[0].stop()
            load.goes_on()
            pods[0] = started(node, shards, 0)
            ready(node, pods)
            load.goes_on()

            # Another one is killed
            pods[1].stop(kill=True)
            pods[1] = started(node, shards, 1)
            ready(node, pods)
            load.goes_on()

            # The head is replaced, at another address, with what Ray knows on its volume
            head.stop(kill=True)
            head = started(node, heads)
            load.goes_on()
            until(lambda: "ready on" in head.log("gateway"), timeout_s=WAIT_S)
            ready(node, pods)
            load.goes_on()
        assert not load.errors
        with attractor.Client(f"{pods[0].address}:7171", timeout_s=60) as client:
            kept = [client.get_memory(f"load/{number}").info().patterns for number in range(len(load.stored))]
        assert kept == load.stored


def ready(node: Kubelet, pods: Sequence[Pod]) -> None:
    """Return when all these pods are, and the Service leads to them."""

    def are_ready() -> bool:
        for pod in pods:
            node.revive(pod)
        return all(pod.ready for pod in pods)

    until(are_ready, timeout_s=WAIT_S)
    node.point(f"{NAME}.ns.svc", pods)
