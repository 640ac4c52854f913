"""Rendered pods as processes of this machine, much as a kubelet runs them; it takes root.

Each pod has a network namespace with an address on a bridge of its own, and process ids of its own. Each container has
a read-only root, the pod's volumes where it mounts them, the variables it is rendered with, and its user, without
capabilities. The image is this checkout, with the tests' Python.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_cache_path
from tests.support.charts import Document
from tests.support.server_process import until

from attractor_server.engine.compute.native.library import library

ROOT = Path(__file__).parents[2]
BRIDGE, NETWORK = "attractor0", "10.231.7"
_NAMESPACE = "attractor-"
USER = 10001
IMAGE = {
    "PATH": "/mnt/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": ":".join(f"/mnt/source/{name}" for name in ("protos", "client", "server")),
    "XDG_CACHE_HOME": "/mnt/cache",  # the image has compiled kernels
    "GRPC_DNS_RESOLVER": "native",  # the other one does not read /etc/hosts, which stands in for a cluster's names
    "OMP_NUM_THREADS": "1",
}
"""Variables of the image"""
_PYTHON = Path(sys.executable)
_PYTHON_INSIDE = Path("/mnt/source") / _PYTHON.relative_to(ROOT) if _PYTHON.is_relative_to(ROOT) else _PYTHON
_COMMANDS = {
    "python": f'exec {_PYTHON_INSIDE} "$@"',
    "attractor": f'exec {_PYTHON_INSIDE} -m attractor_server.cli "$@"',
    "ray": f'exec {_PYTHON_INSIDE} -c "from ray.scripts.scripts import main; main()" "$@"',
    "tini": 'shift; exec "$@"',
}


def missing() -> str:
    """Why pods cannot run here; empty if they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "pods in namespaces take root"
    lacking = [name for name in ("ip", "nsenter", "unshare", "setpriv", "mount") if shutil.which(name) is None]
    if lacking:
        return f"pods in namespaces take {', '.join(lacking)}"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else f"there are no namespaces here: {probe.stderr.decode().strip()}"


@dataclass
class Pod:
    """A pod that runs, or has ended."""

    name: str
    address: str
    template: Document
    containers: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    folder: Path = Path()
    pause: int | None = None
    """The process whose process ids its containers share"""
    stack: ExitStack = field(default_factory=ExitStack)

    def log(self, container: str) -> str:
        return (self.folder / f"{container}.log").read_text(errors="replace")

    def answers(self, probe: Mapping[str, Any]) -> bool:
        """Whether a probe of its first container succeeds."""
        ports = {
            port["name"]: port["containerPort"]
            for container in self.template["spec"]["containers"]
            for port in container.get("ports", [])
        }
        if "tcpSocket" in probe:
            with suppress(OSError), socket.create_connection((self.address, ports[probe["tcpSocket"]["port"]]), 1):
                return True
            return False
        asked = probe["httpGet"]
        url = f"http://{self.address}:{ports[asked['port']]}{asked['path']}"
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    @property
    def ready(self) -> bool:
        return self.answers(self.template["spec"]["containers"][0]["readinessProbe"])

    def main(self, container: str) -> psutil.Process:
        """The container's first process."""
        process = psutil.Process(self.containers[container].pid)
        while process.name() in ("nsenter", "unshare"):
            (process,) = process.children()
        return process

    def stop(self, *, kill: bool = False) -> dict[str, int]:
        """Tell all containers to end, wait for as long as the pod is given, and return how they did."""
        for name, process in self.containers.items():
            with suppress(psutil.NoSuchProcess, ValueError):
                if kill:
                    self.main(name).kill()
                else:
                    self.main(name).terminate()
                continue
            process.poll()
        grace_s = self.template["spec"].get("terminationGracePeriodSeconds", 30)
        ended = {name: process.wait(grace_s) for name, process in self.containers.items()}
        self.stack.close()
        return ended


class Kubelet:
    """Runs pods, with Secrets, claims and names."""

    def __init__(self, folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> None:
        self._folder = folder
        self._secrets = secrets
        self._names: dict[str, Sequence[str]] = {}
        self._next = 10
        self.running: list[Pod] = []
        (folder / "bin").mkdir()
        for name, line in _COMMANDS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/sh\n{line}\n")
            path.chmod(0o755)
        library()  # compiled here, where it was not: so much of the image
        (folder / "cache").mkdir()
        with suppress(FileNotFoundError):
            shutil.copytree(user_cache_path("attractor") / "native", folder / "cache" / "attractor" / "native")
        _own(folder / "cache")
        for path in (folder, *folder.parents):  # which pytest keeps from other users
            with suppress(OSError):
                path.chmod(path.stat().st_mode | 0o011)

    def run(self, name: str, template: Document, *, names: Sequence[str] = ()) -> Pod:
        """Start a pod at a new address, which has those names from now on."""
        self._next += 1
        pod = Pod(name, f"{NETWORK}.{self._next}", template, folder=self._folder / f"{name}-{self._next}")
        pod.folder.mkdir()
        self._network(pod)
        for other in names:
            self._names[other] = [pod.address]
        self.running.append(pod)
        self._write_hosts()
        for volume in template["spec"].get("volumes", []):
            self._make_volume(pod, volume)
        pod.pause = self._pause(pod) if template["spec"].get("shareProcessNamespace") else None
        for container in template["spec"]["containers"]:
            self.start(pod, container)
        return pod

    def start(self, pod: Pod, container: Document) -> None:
        """Start a container of a pod."""
        namespaces = ["nsenter", f"--net=/run/netns/{_netns(pod)}"]
        if pod.pause is None:
            namespaces += ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        else:
            namespaces += [f"--pid=/proc/{pod.pause}/ns/pid", "unshare", "--mount"]
        command = [*namespaces, "bash", "-c", self._script(pod, container)]
        with (pod.folder / f"{container['name']}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        pod.containers[container["name"]] = process

    def revive(self, pod: Pod) -> None:
        """Start containers again that have ended by themselves, as kubelets do."""
        for container in pod.template["spec"]["containers"]:
            if pod.containers[container["name"]].poll() is not None:
                self.start(pod, container)

    def point(self, name: str, pods: Sequence[Pod]) -> None:
        """Have a name lead to pods."""
        self._names[name] = [pod.address for pod in pods]
        self._write_hosts()

    def close(self) -> None:
        for pod in self.running:
            for process in pod.containers.values():
                if process.poll() is None:
                    for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                        with suppress(psutil.NoSuchProcess):
                            one.kill()
                    process.wait(30)
            pod.stack.close()

    def _pause(self, pod: Pod) -> int:
        """Start what holds the process ids that the containers of a pod share; return its process id here."""
        command = ["unshare", "--pid", "--fork", "--kill-child", "sleep", "infinity"]
        process = subprocess.Popen(command, start_new_session=True)
        until(lambda: [one.name() for one in psutil.Process(process.pid).children()] == ["sleep"])
        pod.stack.callback(process.wait, 10)
        pod.stack.callback(process.kill)
        (child,) = psutil.Process(process.pid).children()
        return child.pid

    def _network(self, pod: Pod) -> None:
        name, inside = _netns(pod), f"attr{os.getpid() % 100_000}-{self._next}"
        _ip("netns", "add", name)
        _ip("link", "add", inside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", inside, "master", BRIDGE, "up")
        _ip("-n", name, "address", "add", f"{pod.address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", f"{NETWORK}.1")  # by which processes find their own address

    def _make_volume(self, pod: Pod, volume: Document) -> None:
        place = pod.folder / "volumes" / volume["name"]
        place.mkdir(parents=True)
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            size = volume["emptyDir"]["sizeLimit"].replace("Mi", "m")
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
            pod.stack.callback(subprocess.run, ["umount", "--lazy", place], check=True)
        if "secret" in volume:
            content = self._secrets[volume["secret"]["secretName"]]
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in content]
            for item in items:
                (place / item["path"]).write_text(content[item["key"]])
                (place / item["path"]).chmod(0o440)
        _own(place)

    def _claim(self, pod: Pod, name: str) -> Path:
        """The folder of a claim, which outlives its pod."""
        place = self._folder / "claims" / f"{name}-{pod.name}"
        place.mkdir(parents=True, exist_ok=True)
        _own(place)
        return place

    def _write_hosts(self) -> None:
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, addresses in self._names.items() for address in addresses[:1]]
        for pod in self.running:
            with (pod.folder / "hosts").open("w") as file:  # in its place: containers have it mounted
                file.write("\n".join([*lines, f"{pod.address} {pod.name}", ""]))

    def _environment(self, pod: Pod, container: Document) -> Mapping[str, str]:
        """The variables, each with those above it put in."""
        given = dict(IMAGE)
        for entry in container.get("env", []):
            value = entry.get("value")
            if value is None:
                source = entry["valueFrom"]
                if "secretKeyRef" in source:
                    value = self._secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
                else:
                    facts = {"metadata.name": pod.name, "status.podIP": pod.address}
                    value = facts[source["fieldRef"]["fieldPath"]]
            given[entry["name"]] = _expand(value, given)
        return given

    def _script(self, pod: Pod, container: Document) -> str:
        """What makes the root of a container, and becomes its command."""
        volumes = {volume["name"]: volume for volume in pod.template["spec"].get("volumes", [])}
        layer = pod.folder / f"{container['name']}-layer"
        root = layer / "root"
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mkdir -p {layer}; mount -t tmpfs -o mode=755 tmpfs {layer}",
            f"mkdir {layer}/upper {layer}/work {root}",
            f"mount -t overlay -o lowerdir=/,upperdir={layer}/upper,workdir={layer}/work overlay {root}",
            f"mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc",
            f"mkdir -p {root}/mnt/source {root}/mnt/bin {root}/mnt/cache",
            f"mount --rbind {ROOT} {root}/mnt/source; mount --bind {self._folder}/bin {root}/mnt/bin",
            f"mount --bind {self._folder}/cache {root}/mnt/cache",
        ]
        for path in {Path(sys.base_prefix).resolve(), _PYTHON.parent.parent.resolve(), _PYTHON.parent.parent}:
            lines += [f"mount -t tmpfs -o mode=755 tmpfs {root}/root"] if path.is_relative_to("/root") else []
            if not path.is_relative_to("/tmp"):
                lines.append(f"mkdir -p {root}{path}; mount --rbind {path} {root}{path}")
        for mount in container.get("volumeMounts", []):
            place, volume = f"{root}{mount['mountPath']}", volumes.get(mount["name"])
            lines.append(f"mkdir -p {place}")
            source = pod.folder / "volumes" / mount["name"] if volume else self._claim(pod, mount["name"])
            lines.append(f"mount --bind {source} {place}")
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {place}")
        lines += [
            f"mount --bind {pod.folder}/hosts {root}/etc/hosts",
            f"mount -o remount,ro {root}",
        ]
        given = self._environment(pod, container)
        words = [*container.get("command", ["tini", "--", "attractor"]), *container.get("args", [])]
        command = [_expand(word, given) for word in words]
        privileges = f"--reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
        variables = shlex.join(f"{name}={value}" for name, value in given.items())
        lines.append(f"exec chroot {root} setpriv {privileges} env -i {variables} {shlex.join(command)}")
        return "\n".join(lines)


@contextmanager
def kubelet(folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> Iterator[Kubelet]:
    """One with a network of its own, until the end of the block."""
    _clean()
    _ip("link", "add", BRIDGE, "type", "bridge")
    try:
        _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        running = Kubelet(folder, secrets)
        try:
            yield running
        finally:
            running.close()
    finally:
        _clean()


def _clean() -> None:
    """Remove whatever is left of pods, also of a run that was killed: processes, namespaces, links."""
    for name in _words("ip", "netns", "list"):
        if not name.startswith(_NAMESPACE):
            continue
        for process in _words("ip", "netns", "pids", name):
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        _ip("netns", "delete", name)
    for line in _lines("ip", "-oneline", "link", "show", "master", BRIDGE):
        _ip("link", "delete", line.split(": ")[1].partition("@")[0])
    if _lines("ip", "link", "show", BRIDGE):
        _ip("link", "delete", BRIDGE)


def _lines(*command: str) -> Sequence[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def _words(*command: str) -> Sequence[str]:
    """The first word of each line."""
    return [line.split()[0] for line in _lines(*command) if line.strip()]


@contextmanager
def reachable(port: int) -> Iterator[str]:
    """Have pods reach what listens on this machine alone; yields its address for them."""
    listener = socket.create_server((f"{NETWORK}.1", 0))
    pairs: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                outer, _ = listener.accept()
                inner = socket.create_connection(("127.0.0.1", port))
                pairs.extend((outer, inner))
                for both in ((outer, inner), (inner, outer)):
                    threading.Thread(target=pump, args=both, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{NETWORK}.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for one in pairs:
            one.close()


def _expand(text: str, given: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda match: given.get(match[1], match[0]), text)


def _netns(pod: Pod) -> str:
    return f"{_NAMESPACE}{pod.address.rpartition('.')[2]}"


def _own(path: Path) -> None:
    """Give a folder to the containers' user, as fsGroup does."""
    for one in (path, *path.rglob("*")):
        os.chown(one, USER, USER)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
