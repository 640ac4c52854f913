"""The chart: what Helm renders of it, and what it refuses."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.support.charts import CHART, VALUES, Document, find, helm, plain_environment, pods, rendered
from tests.support.helm_tools import HELM

from attractor_server.cluster.exposure import check_exposure
from attractor_server.config import Settings, load_settings

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
pytestmark = pytest.mark.skipif(not HELM.exists(), reason="there is no Helm in build/tools: make tools fetches it")

VERSIONS = ("1.27", "1.37")
"""The oldest version of Kubernetes that the chart takes, and the newest that there is"""

each_values = pytest.mark.parametrize("values", VALUES, ids=[path.stem for path in VALUES])


def refusal(*settings: str) -> str:
    """What Helm says that does not take these settings."""
    run = helm("template", "one", str(CHART), *(word for setting in settings for word in ("--set-json", setting)))
    assert run.returncode != 0
    return run.stderr


def environment(documents: Sequence[Document]) -> Mapping[str, str]:
    """The variables of the server, as far as they are plain values."""
    (container,) = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return plain_environment(container)


@each_values
def test_the_chart_is_well_formed(values: Path) -> None:
    run = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert run.returncode == 0, run.stdout


@each_values
def test_kubernetes_knows_every_field_of_it(values: Path) -> None:
    documents = rendered("--values", str(values))
    assert {"StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget", "Pod"} <= {
        one["kind"] for one in documents
    }
    for version in VERSIONS:
        for document in (one for one in documents if one["apiVersion"] != "monitoring.coreos.com/v1"):
            kubernetes_validate.validate(document, version, strict=True)


@each_values
def test_pods_meet_the_restricted_standard(values: Path) -> None:
    found = list(pods(rendered("--values", str(values))))
    assert len(found) == 2
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
    assert bool(check_exposure(settings)) == (values.stem != "secured-values")
    on_volume = str(settings.data_dir) == "/data/store"
    assert on_volume != settings.store_uri.startswith("postgresql://")


def test_shards_share_the_cpu_request(tmp_path: Path) -> None:
    for request, shards, threads in (("1500m", 2, 1), ("4", 1, 4), (3, 2, 1), ("250m", 1, 1)):
        (tmp_path / "v.yaml").write_text(
            json.dumps(
                {
                    "insecure": True,
                    "server": {"shards": shards},
                    "resources": {"requests": {"cpu": request}, "limits": {"memory": "4Gi"}},
                }
            )
        )
        assert environment(rendered("--values", str(tmp_path / "v.yaml")))["ATTRACTOR_THREADS"] == str(threads)


def test_no_version_changes_what_kubernetes_never_changes(tmp_path: Path) -> None:
    later = Path(shutil.copytree(CHART, tmp_path / "attractor"))
    text = (later / "Chart.yaml").read_text()
    (later / "Chart.yaml").write_text(text.replace("0.1.0", "0.2.0"))
    fixed = []
    for chart in (CHART, later):
        (served,) = (one for one in rendered("--set", "insecure=true", chart=chart) if one["kind"] == "StatefulSet")
        assert served["metadata"]["labels"]["helm.sh/chart"].endswith("0.2.0" if chart == later else "0.1.0")
        fixed.append([served["spec"][key] for key in ("selector", "serviceName", "volumeClaimTemplates")])
    assert fixed[0] == fixed[1]


SURE = "insecure=true"


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
