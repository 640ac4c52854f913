"""The chart as Helm renders it. `python -m tests.support.charts` writes the golden files anew."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from tests.support.helm_tools import HELM

CHART = Path(__file__).parents[2] / "helm" / "attractor"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
GOLDEN = Path(__file__).parents[1] / "helm" / "golden"
Document = dict[str, Any]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(HELM), *arguments], capture_output=True, text=True, timeout=60, check=False)


def rendered(*arguments: str, chart: Path = CHART) -> Sequence[Document]:
    """What Helm makes of the chart with these values."""
    return [document for document in yaml.load_all(_template(chart, *arguments), yaml.CSafeLoader) if document]


def rendered_of(values: Mapping[str, Any]) -> Sequence[Document]:
    """What Helm makes of the chart with values by their paths."""
    given = (word for path, value in values.items() for word in ("--set-json", f"{path}={json.dumps(value)}"))
    return rendered(*given)


@cache
def _template(chart: Path, *arguments: str) -> str:
    run = helm("template", "one", str(chart), "--namespace", "ns", *arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


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


def golden(values: Path) -> str:
    """What is rendered with these values, but for files of the chart that are in it as they are."""
    documents = rendered("--values", str(values))
    for one in documents:
        if one["kind"] == "PrometheusRule":
            one["spec"] = "files/rules.yaml"
        elif one["metadata"]["name"].endswith("-board"):
            one["data"] = "files/board.json"
        elif one["kind"] == "Pod":
            one["spec"]["containers"][0]["args"][0] = "files/round_trip.py"
    return "".join(f"---\n{yaml.dump(one, sort_keys=False, width=120, Dumper=_Plain)}" for one in documents)


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: object) -> bool:
        return True


def main() -> None:
    for path in GOLDEN.glob("*.yaml"):
        path.write_text(golden(CHART / "ci" / f"{path.stem}-values.yaml"))


if __name__ == "__main__":
    main()
