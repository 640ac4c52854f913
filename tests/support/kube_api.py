"""As much of a Kubernetes API server as Helm needs, in memory: discovery, objects, and server-side apply.

What it takes is held to Kubernetes' own schemas, and a StatefulSet to what can never be changed of it.
"""

import copy
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

VERSION = "1.37"
Object = dict[str, Any]
KINDS: Mapping[tuple[str, str, str], tuple[str, bool]] = {
    ("", "v1", "namespaces"): ("Namespace", False),
    ("", "v1", "secrets"): ("Secret", True),
    ("", "v1", "configmaps"): ("ConfigMap", True),
    ("", "v1", "services"): ("Service", True),
    ("", "v1", "serviceaccounts"): ("ServiceAccount", True),
    ("", "v1", "pods"): ("Pod", True),
    ("apps", "v1", "statefulsets"): ("StatefulSet", True),
    ("batch", "v1", "cronjobs"): ("CronJob", True),
    ("policy", "v1", "poddisruptionbudgets"): ("PodDisruptionBudget", True),
    ("networking.k8s.io", "v1", "networkpolicies"): ("NetworkPolicy", True),
    ("autoscaling", "v2", "horizontalpodautoscalers"): ("HorizontalPodAutoscaler", True),
    ("ray.io", "v1", "rayclusters"): ("RayCluster", True),
    ("monitoring.coreos.com", "v1", "podmonitors"): ("PodMonitor", True),
    ("monitoring.coreos.com", "v1", "prometheusrules"): ("PrometheusRule", True),
}
"""Kinds by group, version and plural, and whether they are in namespaces"""
CUSTOM = {"RayCluster", "PodMonitor", "PrometheusRule"}
"""Kinds whose schemas operators bring"""
CHANGEABLE = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
}
"""Of a StatefulSet's spec"""
PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "reason": reason,
            "code": code,
            "message": message,
        }


class KubeApi:
    """The objects of a cluster, by kind and name, and what was done to them."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.changes: list[str] = []
        self._lock = threading.Lock()
        self._written = 0

    def kinds(self) -> set[tuple[str, str]]:
        return set(self.objects)

    def answer(self, method: str, url: str, content_type: str, body: bytes) -> tuple[int, Object]:
        parts = urlsplit(url)
        if (found := _discover(parts.path)) is not None:
            return 200, found
        match = PATH.fullmatch(parts.path)
        place = (match["group"] or "", match["version"] or "v1", match["plural"]) if match else ("", "", "")
        if match is None or place not in KINDS:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        kind, _ = KINDS[place]
        dry = "dryRun" in parse_qs(parts.query)
        with self._lock:
            return self._handle(method, kind, match["name"], match["namespace"], content_type, body, dry=dry)

    def _handle(
        self, method: str, kind: str, name: str | None, namespace: str | None, form: str, body: bytes, *, dry: bool
    ) -> tuple[int, Object]:
        if method == "GET" and name is None:
            items = [one for (of, _), one in self.objects.items() if of == kind]
            return 200, {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {}, "items": items}
        if method == "POST":
            given: Object = yaml.safe_load(body)
            name = given["metadata"]["name"]
            if (kind, name) in self.objects:
                raise Refused(409, "AlreadyExists", f"{kind} {name!r} already exists")
            return 201, self._write(kind, name, namespace, given, dry=dry)
        assert name is not None
        old = self.objects.get((kind, name))
        if old is None and not (method == "PATCH" and "apply-patch" in form):
            raise Refused(404, "NotFound", f'{kind} "{name}" not found')
        if method == "GET":
            assert old is not None
            return 200, old
        if method == "DELETE":
            if not dry:
                del self.objects[kind, name]
                self.changes.append(f"deleted {kind} {name}")
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        given = yaml.safe_load(body)
        if method == "PATCH" and "apply-patch" not in form:
            given = _merge(copy.deepcopy(old), given)
        return (200 if old else 201), self._write(kind, name, namespace, given, dry=dry)

    def _write(self, kind: str, name: str, namespace: str | None, given: Object, *, dry: bool) -> Object:
        old = self.objects.get((kind, name))
        if namespace is not None:
            given["metadata"].setdefault("namespace", namespace)
        _check(kind, given, old)
        self._written += 1
        given["metadata"] |= {
            "uid": old["metadata"]["uid"] if old else str(uuid.uuid4()),
            "resourceVersion": str(self._written),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        if not dry:
            self.objects[kind, name] = given
            self.changes.append(f"{'changed' if old else 'made'} {kind} {name}")
        return given


def _check(kind: str, given: Object, old: Object | None) -> None:
    bare = copy.deepcopy(given)
    bare.pop("status", None)
    for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"):
        bare["metadata"].pop(name, None)
    if kind not in CUSTOM:
        try:
            kubernetes_validate.validate(bare, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, "Invalid", f"{kind} {given['metadata']['name']}: {error.message[:300]}") from error
    if kind == "StatefulSet" and old is not None and _fixed(old) != _fixed(given):
        raise Refused(422, "Invalid", f"spec: Forbidden: updates to fields other than {', '.join(sorted(CHANGEABLE))}")


def _fixed(given: Object) -> Object:
    return {name: value for name, value in given["spec"].items() if name not in CHANGEABLE}


def _merge(old: Any, new: Any) -> Any:  # noqa: ANN401 - any part of an object
    """A merge patch; directives of strategic ones are passed over."""
    if not isinstance(new, dict):
        return new
    made = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        if value is None:
            made.pop(name, None)
        elif not name.startswith("$"):
            made[name] = _merge(made.get(name), value)
    return made


def _discover(path: str) -> Object | None:
    """What clients ask before anything else."""
    if path == "/version":
        major, minor = VERSION.split(".")
        return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = dict.fromkeys((group, version) for group, version, _ in KINDS if group)
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": group, "versions": [one], "preferredVersion": one}
                for group, version in groups
                for one in [{"groupVersion": f"{group}/{version}", "version": version}]
            ],
        }
    place = re.fullmatch(r"/api/(v1)|/apis/([^/]+)/([^/]+)", path)
    if place is None:
        return None
    wanted = (place[2] or "", place[1] or place[3])
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "/".join(filter(None, wanted)),
        "resources": [
            {"name": plural, "singularName": kind.lower(), "namespaced": within, "kind": kind, "verbs": verbs}
            for (group, version, plural), (kind, within) in KINDS.items()
            if (group, version) == wanted
        ],
    }


@contextmanager
def running(folder: Path) -> Iterator[tuple[KubeApi, Path]]:
    """A cluster, and the file by which clients find it, in the folder."""
    api = KubeApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                code, answer = api.answer(self.command, self.path, self.headers.get("Content-Type", ""), body)
            except Refused as refused:
                code, answer = refused.code, refused.status
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815 - their names there

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = folder / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "one",
                "clusters": [{"name": "one", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one", "namespace": "ns"}}],
                "users": [{"name": "one", "user": {}}],
            }
        )
    )
    try:
        yield api, config
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
