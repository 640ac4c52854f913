"""A release: installed, upgraded, refused a change, rolled back, uninstalled; by Helm, on a stand-in for Kubernetes.

What Helm knows of releases is in the tests' PostgreSQL, where it can keep it as well.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.charts import CHART
from tests.support.helm_tools import HELM
from tests.support.postgresql import PostgresServer

pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
from tests.support.kube_api import KubeApi, running

pytestmark = pytest.mark.skipif(not HELM.exists(), reason="there is no Helm in build/tools: make tools fetches it")


@pytest.fixture
def api(tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    monkeypatch.setenv("HELM_DRIVER", "sql")
    monkeypatch.setenv("HELM_DRIVER_SQL_CONNECTION_STRING", f"{postgres.store()}&sslmode=disable")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{name}_HOME", str(tmp_path / name))
    with running(tmp_path) as (cluster, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield cluster


def helm(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([HELM, *words, "--namespace", "ns"], capture_output=True, text=True, timeout=60, check=False)


def does(*words: str) -> str:
    run = helm(*words)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("values", ["volume", "cluster", "raycluster"])
def test_a_release_lives_and_ends(api: KubeApi, values: str, tmp_path: Path) -> None:
    chart = Path(shutil.copytree(CHART, tmp_path / "attractor"))
    more = ("--values", str(CHART / "ci" / f"{values}-values.yaml"))
    quiet = ("--disable-openapi-validation",)
    said = does("install", "one", str(chart), *more, *quiet)
    assert "STATUS: deployed" in said
    assert "attractor.connect(" in said
    first = api.kinds()
    assert ("Service", "one-attractor") in first
    # Another version, and other settings: what can be changed is
    later = (chart / "Chart.yaml").read_text().replace("0.1.0", "0.2.0")
    (chart / "Chart.yaml").write_text(later)
    api.changes.clear()
    does("upgrade", "one", str(chart), *more, *quiet, "--set", "server.logLevel=debug")
    assert not [change for change in api.changes if not change.startswith("changed")]
    main = api.objects["RayCluster" if values == "raycluster" else "StatefulSet", "one-attractor"]
    assert main["metadata"]["labels"]["helm.sh/chart"] == "attractor-0.2.0"
    # What can never be changed is refused, and said
    size = {"volume": "persistence.size=30Gi", "cluster": "cluster.storage.size=2Gi"}.get(values)
    if size is not None:
        refused = helm("upgrade", "one", str(chart), *more, *quiet, "--set", size)
        assert refused.returncode != 0
        assert "Forbidden: updates to" in refused.stderr
    does("rollback", "one", "1")
    assert "debug" not in str([one for key, one in api.objects.items() if key[0] in ("StatefulSet", "RayCluster")])
    does("uninstall", "one")
    assert not api.kinds()


def test_rays_token_outlives_upgrades(api: KubeApi) -> None:
    settings = ("--set", "insecure=true,mode=cluster,backend.uri=postgresql://a@b/c", "--disable-openapi-validation")
    does("install", "one", str(CHART), *settings)
    token = api.objects["Secret", "one-attractor-ray"]["data"]["auth_token"]
    does("upgrade", "one", str(CHART), *settings, "--set", "cluster.replicas=4")
    assert api.objects["StatefulSet", "one-attractor"]["spec"]["replicas"] == 4
    assert api.objects["Secret", "one-attractor-ray"]["data"]["auth_token"] == token
