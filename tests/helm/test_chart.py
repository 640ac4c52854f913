"""The chart: what Helm renders of it, and what it refuses."""

import base64
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from tests.support import crds
from tests.support.charts import (
    CHART,
    GOLDEN,
    VALUES,
    Document,
    find,
    golden,
    helm,
    plain_environment,
    pods,
    rendered,
    rendered_of,
)
from tests.support.helm_tools import HELM

from attractor_server.cluster.exposure import check_exposure
from attractor_server.config import Settings, load_settings

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
pytestmark = pytest.mark.skipif(not HELM.exists(), reason="there is no Helm in build/tools: make tools fetches it")

VERSIONS = ("1.27", "1.37")
"""The oldest version of Kubernetes that the chart takes, and the newest that there is"""

CUSTOM = ("monitoring.coreos.com/v1", "ray.io/v1", "gateway.networking.k8s.io/v1")
"""Kinds that operators bring"""

each_values = pytest.mark.parametrize("values", VALUES, ids=[path.stem for path in VALUES])


def refusal(*settings: str) -> str:
    """What Helm says that does not take these settings."""
    run = helm("template", "one", str(CHART), *(word for setting in settings for word in ("--set-json", setting)))
    assert run.returncode != 0
    return run.stderr


def server(documents: Sequence[Document]) -> Document:
    """The container that runs `attractor serve`."""
    found: list[Document] = [
        container
        for pod in pods(documents)
        for container in pod["containers"]
        if container["name"] in ("attractor", "gateway")
    ]
    assert len(found) == 1
    return found[0]


def environment(documents: Sequence[Document]) -> Mapping[str, str]:
    """The variables of the server, as far as they are plain values."""
    return plain_environment(server(documents))


@each_values
def test_the_chart_is_well_formed(values: Path) -> None:
    run = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert run.returncode == 0, run.stdout


@each_values
def test_kubernetes_knows_every_field_of_it(values: Path) -> None:
    documents = rendered("--values", str(values))
    assert {"Service", "NetworkPolicy", "PodDisruptionBudget", "Pod"} <= {one["kind"] for one in documents}
    own = [one for one in documents if one["apiVersion"] not in CUSTOM]
    within = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec} for spec in pods(documents)]
    assert within
    for document in (*own, *within):
        know(json.dumps(document))


@cache
def know(document: str) -> None:
    """Each once: most are the same for several files of values."""
    for kubernetes in VERSIONS:
        kubernetes_validate.validate(json.loads(document), kubernetes, strict=True)


@pytest.mark.skipif(not crds.FOLDER, reason="ATTRACTOR_CRDS names no folder with the definition of a RayCluster")
def test_the_operator_knows_every_field_of_a_ray_cluster() -> None:
    known = crds.schemas(Path(crds.FOLDER))
    redis = {"address": "redis:6379", "existingSecret": "redis"}
    for more in ((), ("--set-json", f"cluster.redis={json.dumps(redis)}")):
        documents = rendered("--values", str(CHART / "ci" / "raycluster-values.yaml"), *more)
        crds.check(find(documents, "RayCluster"), known)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_change_of_what_is_rendered_is_seen(path: Path) -> None:
    assert golden(CHART / "ci" / f"{path.stem}-values.yaml") == path.read_text(), "python -m tests.support.charts"


def test_each_value_is_described() -> None:
    sys.path.insert(0, str(CHART.parent))
    from values_table import find_undescribed  # noqa: PLC0415 - a script, and in no package

    assert not find_undescribed((CHART / "values.yaml").read_text())


def test_versions_are_those_of_the_server_and_of_its_ray() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert chart["appVersion"] == version("attractor-server")
    root = CHART.parents[1]
    assert f"ray=={values['cluster']['ray']['version']}\n" in (root / "constraints.txt").read_text()
    assert f"ARG VERSION={chart['appVersion']}\n" in (root / "Dockerfile").read_text()
    assert f"attractor:{chart['appVersion']}\n" in (root / "compose.yaml").read_text()


def test_each_mode_is_rendered() -> None:
    modes = {yaml.safe_load(path.read_text()).get("mode", "standalone") for path in VALUES}
    assert modes == set(json.loads((CHART / "values.schema.json").read_text())["properties"]["mode"]["enum"])
    assert {"volume", "cluster", "raycluster"} <= {path.stem for path in GOLDEN.glob("*.yaml")}


@each_values
def test_pods_meet_the_restricted_standard(values: Path) -> None:
    found = list(pods(rendered("--values", str(values))))
    assert len(found) >= 2
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert "memory" in container["resources"]["limits"]
            assert "cpu" not in container["resources"]["limits"]
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))


@each_values
def test_the_server_takes_the_settings_of_the_pod(values: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        name: value for name, value in environment(rendered("--values", str(values))).items() if "ATTRACTOR" in name
    }
    assert {name.removeprefix("ATTRACTOR_").lower() for name in given} <= Settings.model_fields.keys()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("attractor_server.config.read_password", lambda file: "secret" if file else "")
    settings = load_settings({})
    assert (settings.listen_host, settings.port, settings.bank_memory_mib) == ("0.0.0.0", 7171, 0)
    assert bool(check_exposure(settings)) == (values.stem not in ("secured-values", "autoscaled-values"))
    on_volume = str(settings.data_dir) == "/data/store"
    assert on_volume != settings.store_uri.startswith("postgresql://")
    if settings.ray_address:
        assert (settings.shards, settings.place_resource, settings.leaves_shards) == (0, "attractor", True)


@each_values
def test_whatever_settings_name_is_mounted_where_it_is_read(values: Path) -> None:
    documents = rendered("--values", str(values))
    named = {value for value in environment(documents).values() if value.startswith("/etc/attractor/")}
    for pod in pods(documents):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) - {"data", "gcs"} <= volumes  # which a StatefulSet claims for its pods
            if container["name"] in ("attractor", "gateway", "shard"):
                assert {str(Path(value).parent) for value in named} <= mounts.keys()


@pytest.mark.parametrize(
    ("cpu", "shards", "threads"), [("1500m", 2, "1"), ("4", 1, "4"), (3, 2, "1"), ("250m", 1, "1")]
)
def test_shards_share_the_cpu_request(cpu: object, shards: int, threads: str) -> None:
    given = {"insecure": True, "server.shards": shards, "resources.requests.cpu": cpu}
    assert environment(rendered_of(given))["ATTRACTOR_THREADS"] == threads


def test_no_version_changes_what_kubernetes_never_changes(tmp_path: Path) -> None:
    later = Path(shutil.copytree(CHART, tmp_path / "attractor"))
    text = (later / "Chart.yaml").read_text()
    (later / "Chart.yaml").write_text(text.replace("0.1.0", "0.2.0"))
    for values in ("volume", "cluster"):
        fixed = []
        for chart in (CHART, later):
            documents = rendered("--values", str(CHART / "ci" / f"{values}-values.yaml"), chart=chart)
            sets = [one for one in documents if one["kind"] == "StatefulSet"]
            assert {one["metadata"]["labels"]["helm.sh/chart"] for one in sets} == {
                f"attractor-0.{1 + (chart == later)}.0"
            }
            keys = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
            fixed.append([one["spec"].get(key) for one in sets for key in keys])
        assert fixed[0] == fixed[1]


SURE = "insecure=true"
ON_POSTGRESQL = {"insecure": True, "backend.uri": "postgresql://a@b/c"}
CLUSTER = (SURE, 'mode="cluster"', 'backend.uri="postgresql://a@b/c"')


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "insecure: saw false without tls.existingSecret and identities.existingSecret; expected them, or true"),
        (
            [SURE, 'tls.existingSecret="t"', 'identities.existingSecret="i"'],
            "insecure: saw true with TLS and identities",
        ),
        (['tls.existingSecret="t"'], "insecure: saw false without identities.existingSecret;"),
        (['identities.existingSecret="i"'], "insecure: saw false without tls.existingSecret;"),
        (
            ['tls={"existingSecret": "t", "optional": true, "clientCertificates": true}'],
            "insecure: saw false without tls.optional false;",
        ),
        ([SURE, "tls.clientCertificates=true"], "tls.clientCertificates: saw true without tls.existingSecret"),
        ([SURE, 'tls.serverName="a.b"'], "tls.serverName: saw a.b without tls.existingSecret"),
        (['tls={"existingSecret": "t", "caKey": "", "clientCertificates": true}'], "tls.caKey: saw none"),
        ([SURE, 'tests.existingSecret="t"'], 'tests.existingSecret: saw "t" without identities.existingSecret'),
        ([SURE, 'mode="cluster"'], "mode: saw cluster without backend.uri; expected a PostgreSQL"),
        ([SURE, 'mode="clustr"'], "/mode"),
        ([SURE, "cluster.replica=2"], "'replica' not allowed"),
        ([SURE, "cluster.replicas=65"], "/cluster/replicas"),
        ([*CLUSTER, "server.shards=2"], "server.shards: saw 2 with mode cluster; expected 1"),
        ([*CLUSTER, 'cluster.redis.address="r:6379"'], 'cluster.redis.address: saw "r:6379" with mode cluster'),
        ([*CLUSTER, 'persistence.existingClaim="c"'], 'persistence.existingClaim: saw "c" with mode cluster'),
        ([*CLUSTER, "cluster.autoscaling.minReplicas=9"], "cluster.autoscaling.minReplicas: saw 9; expected no more"),
        (
            [*CLUSTER, 'mode="raycluster"', "cluster.autoscaling.enabled=true"],
            "cluster.autoscaling.enabled: saw true with mode raycluster; expected mode cluster",
        ),
        (
            [*CLUSTER, 'mode="raycluster"', 'podDisruptionBudget.maxUnavailable="10%"'],
            'podDisruptionBudget.maxUnavailable: saw "10%" with mode raycluster; expected a number',
        ),
        ([SURE, "grpcRoute.enabled=true"], "grpcRoute.parentRefs: saw none"),
        ([*CLUSTER, "backup.enabled=true"], "backup.enabled: saw true with backend.uri; expected PostgreSQL's own"),
        ([SURE, "backup.enabled=true"], "backup.existingClaim: saw none"),
        (
            [SURE, 'backup={"enabled": true, "existingClaim": "c"}', 'persistence.accessModes=["ReadWriteOncePod"]'],
            "backup.enabled: saw true with ReadWriteOncePod",
        ),
        ([SURE, 'sever={"shards": 2}'], "'sever' not allowed"),
        ([SURE, "server.shard=2"], "'shard' not allowed"),
        ([SURE, "server.shards=0"], "/server/shards"),
        ([SURE, 'backend.uri="mysql://a"'], "/backend/uri"),
        ([SURE, 'backend.uri="postgresql://a:Gqx9@b/c"'], "backend.uri: saw a password"),
        ([SURE, 'backend.uri="postgresql://a@b/c?password=Gqx9"'], "backend.uri: saw a password"),
        ([SURE, 'backend.existingSecret="pg"'], 'backend.existingSecret: saw "pg" without backend.uri'),
        ([SURE, "persistence.enabled=false"], "persistence.enabled: saw false without backend.uri"),
        ([SURE, "server.graceSeconds=50"], "terminationGracePeriodSeconds: saw 60; expected 65 or more"),
        ([SURE, 'resources.limits.memory="1Gi"'], "resources.limits.memory: saw 1024 MiB; expected 1428 or more"),
        (
            [SURE, 'server.extraSettings={"ATTRACTOR_PORT": 1}'],
            "server.extraSettings: saw ATTRACTOR_PORT, which the chart",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_the_value(settings: list[str], words: str) -> None:
    told = refusal(*settings)
    assert words in told
    assert "Gqx9" not in told


def test_probes_and_prometheus_ask_the_admin_port_of_each_shard() -> None:
    documents = rendered("--values", str(CHART / "ci" / "volume-values.yaml"))
    (served,) = (one for one in documents if one["kind"] == "StatefulSet")
    (container,) = served["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (ports["admin"], ports["admin-1"]) == (9090, 9091)
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["httpGet"] for kind, probe in probes.items()} == {
        "startup": {"path": "/readyz", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
        "liveness": {"path": "/livez", "port": "admin"},
    }
    assert [probe["failureThreshold"] for probe in probes.values()] == [60, 2, 6]
    (monitor,) = (one for one in documents if one["kind"] == "PodMonitor")
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= served["spec"]["template"]["metadata"]["labels"].items()
    )
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["admin", "admin-1"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (policy,) = (one for one in documents if one["kind"] == "NetworkPolicy")
    assert [rule["ports"][0]["port"] for rule in policy["spec"]["ingress"]] == [7171, 9090]


def test_rules_watch_the_release_alone_and_the_board_is_whole() -> None:
    documents = rendered("--values", str(CHART / "ci" / "volume-values.yaml"))
    (rules,) = (one for one in documents if one["kind"] == "PrometheusRule")
    expressions = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert expressions
    assert all('job=~".*ns/one-attractor"' in expression for expression in expressions)
    (board,) = (one for one in documents if one["metadata"]["name"].endswith("-board"))
    assert json.loads(board["data"]["attractor.json"]) == json.loads((CHART / "files" / "board.json").read_text())


def test_a_pod_of_a_shard_is_rolled_drained_and_never_shares_its_place() -> None:
    documents = rendered("--values", str(CHART / "ci" / "cluster-values.yaml"))
    shards, head = find(documents, "StatefulSet", "one-attractor"), find(documents, "StatefulSet", "one-attractor-head")
    assert (shards["spec"]["replicas"], shards["spec"]["minReadySeconds"]) == (3, 10)
    (shard,) = shards["spec"]["template"]["spec"]["containers"]
    (ray, gateway) = head["spec"]["template"]["spec"]["containers"]
    place = plain_environment(gateway)["ATTRACTOR_PLACE_RESOURCE"]
    assert f"--resources={json.dumps({place: 1})}" in shard["args"]
    assert not any("--resources" in word for word in ray["args"])
    drained_s = int(plain_environment(shard)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert float(plain_environment(gateway)["ATTRACTOR_GRACE_S"]) < drained_s
    assert drained_s < shards["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert head["spec"]["template"]["spec"]["shareProcessNamespace"] is True
    for where in ("metadata", "spec"):
        assert "ATTRACTOR" not in json.dumps(shards["spec"]["template"][where])  # a setting restarts the gateway alone
    service = find(documents, "Service", "one-attractor")["spec"]["selector"]
    assert service.items() <= shards["spec"]["template"]["metadata"]["labels"].items()
    assert not service.items() <= head["spec"]["template"]["metadata"]["labels"].items()


def test_pods_of_a_ray_cluster_are_those_of_mode_cluster_but_for_rays_commands() -> None:
    found = []
    for mode in ("cluster", "raycluster"):
        documents = rendered_of({**ON_POSTGRESQL, "mode": mode, "cluster.storage.enabled": False})
        specs = [spec for spec in pods(documents) if spec["containers"][0]["name"] in ("ray-head", "shard")]
        for container in (one for spec in specs for one in spec["containers"] if one["name"] != "gateway"):
            for word in ("command", "args"):
                assert (container.pop(word, None) is not None) == (mode == "cluster")
        found.append(sorted(specs, key=lambda spec: str(spec["containers"][0]["name"])))
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_rays_token_is_drawn_where_none_is_named() -> None:
    token = find(rendered_of({**ON_POSTGRESQL, "mode": "cluster"}), "Secret")["data"]["auth_token"]
    assert len(base64.b64decode(token)) == 64
    named = rendered_of({**ON_POSTGRESQL, "mode": "cluster", "cluster.ray.existingTokenSecret": "mine"})
    assert not [one for one in named if one["kind"] == "Secret"]
    assert "mine" in json.dumps(find(named, "StatefulSet", "one-attractor"))


def test_a_scaled_set_names_no_number_of_pods() -> None:
    documents = rendered("--values", str(CHART / "ci" / "autoscaled-values.yaml"))
    scaler = find(documents, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "one-attractor"
    assert scaler["behavior"]["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]
    assert "replicas" not in find(documents, "StatefulSet", "one-attractor")["spec"]
