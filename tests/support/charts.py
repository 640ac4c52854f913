"""The chart as Helm renders it."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from tests.support.helm_tools import HELM

CHART = Path(__file__).parents[2] / "helm" / "attractor"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
Document = dict[str, Any]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(HELM), *arguments], capture_output=True, text=True, timeout=60, check=False)


def rendered(*arguments: str, chart: Path = CHART) -> Sequence[Document]:
    """What Helm makes of the chart with these values."""
    run = helm("template", "one", str(chart), "--namespace", "ns", *arguments)
    assert run.returncode == 0, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def find(documents: Sequence[Document], kind: str, name: str = "") -> Document:
    """The one of that kind, and name."""
    (one,) = (one for one in documents if one["kind"] == kind and name in ("", one["metadata"]["name"]))
    return one


def pods(documents: Sequence[Document]) -> Iterator[Document]:
    """The specs of all pods."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "Pod":
            yield spec
        elif document["kind"] == "CronJob":
            yield spec["jobTemplate"]["spec"]["template"]["spec"]
        elif document["kind"] == "RayCluster":
            yield spec["headGroupSpec"]["template"]["spec"]
            yield from (group["template"]["spec"] for group in spec["workerGroupSpecs"])
        elif document["kind"] == "StatefulSet":
            yield spec["template"]["spec"]


def plain_environment(container: Document) -> Mapping[str, str]:
    """The variables of a container, as far as they are plain values."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def lay_out(volume: Document, secrets: Mapping[str, Mapping[str, bytes]], folder: Path) -> None:
    """Writes what Kubernetes would mount of a Secret into a folder."""
    folder.mkdir(parents=True)
    content = secrets[volume["secret"]["secretName"]]
    places = volume["secret"].get("items") or [{"key": key, "path": key} for key in content]
    for place in places:
        (folder / place["path"]).write_bytes(content[place["key"]])
