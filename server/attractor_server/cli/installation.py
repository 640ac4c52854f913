"""Checks of an installation, one thing after another; nothing is left behind."""

import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import attractor
from attractor_server.cli.certificates import examine_certificates, make_client_tls
from attractor_server.config import Settings
from attractor_server.errors import ServerError
from attractor_server.hosts import join_port
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.opening import backend_of
from attractor_server.storage.findings import Finding, examine_folder

PYTHON = (3, 11)

PACKAGES = ("apsw", "grpc", "numpy", "psycopg", "ray", "torch")

_DISTRIBUTIONS = {"grpc": "grpcio"}

FILES = 4096
"""Open files that a server with many clients may need"""

LISTED = 1000
"""Memories of a server that are looked at"""

BUILT_S = 1_750_000_000
"""No clock that is right shows less"""


def examine(settings: Settings, server: str, *, tls: bool = False) -> Iterator[Finding]:
    """Yield findings on this machine, for a server with these settings, and on the one at `server`, if named."""
    yield _python()
    for name in PACKAGES:
        yield _package(name)
    yield _sqlite()
    yield from _guard("native library", _native_library)
    yield _files()
    yield _clock()
    yield from _guard("models", lambda: _models(settings))
    if not server:
        yield _port(settings)
    if settings.tls_cert is not None:
        yield from _guard("TLS", lambda: examine_certificates(settings))
    if isinstance(settings.artifacts, Path):
        yield examine_folder("artifact store", settings.artifacts)
    elif settings.artifacts is not None:
        yield from _guard("artifact store", lambda: _bucket(settings.artifacts))
    if settings.backend_store_uri or settings.durable:
        yield from backend_of(settings.store_uri).examine(settings.store_uri)
    if server:
        yield from _server(server, settings, tls=tls)


def _python() -> Finding:
    seen = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, PYTHON))
    return Finding("ok" if sys.version_info >= PYTHON else "wrong", "Python", f"{seen}; expected {wanted} or newer")


def _package(name: str) -> Finding:
    try:
        import_module(name)
        return Finding("ok", name, version(_DISTRIBUTIONS.get(name, name)))
    except (ImportError, OSError, PackageNotFoundError) as error:
        return Finding("wrong", name, f"cannot be loaded: {error}; pip install attractor-server")


def _sqlite() -> Finding:
    try:
        import apsw  # noqa: PLC0415 - its absence is told above

        from attractor_server.storage.backends.sqlite import SAFE_SQLITE  # noqa: PLC0415
    except ImportError as error:
        return Finding("wrong", "SQLite", str(error))
    seen, wanted = apsw.sqlite_lib_version(), ".".join(map(str, SAFE_SQLITE))
    safe = tuple(map(int, seen.split("."))) >= SAFE_SQLITE
    return Finding("ok" if safe else "wrong", "SQLite", f"{seen}; expected {wanted} or newer")


def _native_library() -> Finding:
    from attractor_server.engine.compute.native.library import describe_library  # noqa: PLC0415 - needs the engine

    found, which = describe_library()
    return Finding("ok" if found else "warning", "native library", which)


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= FILES or soft == resource.RLIM_INFINITY
    return Finding("ok" if enough else "warning", "open files", f"{soft}; expected {FILES}: ulimit -n {FILES}")


def _clock() -> Finding:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    if time.time() < BUILT_S:
        return Finding("wrong", "clock", f"it says {now} UTC: memories with a time to live would end at a wrong time")
    return Finding("ok", "clock", f"{now} UTC")


def _models(settings: Settings) -> Finding:
    from attractor_server.model_registry import load_models  # noqa: PLC0415 - loads torch

    return Finding("ok", "models", ", ".join(sorted(load_models(settings.models, device="cpu"))))


def _port(settings: Settings) -> Finding:
    host = settings.listen_host.strip("[]")
    where = join_port(host, settings.port)
    try:
        family, *_, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except OSError as error:
        return Finding("warning", "port", f"{where} cannot be listened on: {error.strerror}; a server may have it")
    return Finding("ok", "port", f"{where} is free")


def _bucket(address: Path | str | None) -> Finding:
    """Find out whether an object can be put there, and deleted."""
    assert address is not None
    artifacts = Artifacts(address)
    artifacts.delete([artifacts.put("doctor", b"Attractor was here")])
    return Finding("ok", "artifact store", f"{artifacts} takes objects")


def _server(address: str, settings: Settings, *, tls: bool) -> Iterator[Finding]:
    from attractor_server.cli.memories import could_have_metric  # noqa: PLC0415

    try:
        with attractor.Client(address, timeout_s=10, tls=make_client_tls(settings, asked=tls)) as client:
            models = client.models()
            some = islice(client.memories(), LISTED)
            without = [info.name for info in some if could_have_metric(info, models)]
    except (attractor.AttractorError, OSError, ServerError) as error:
        yield Finding("wrong", "server", f"{address}: {error}")
        return
    yield Finding("ok", "server", f"{address} answers, models: {', '.join(sorted(model.name for model in models))}")
    if without:
        yield Finding(
            "warning",
            "metric",
            f"{len(without)} of the first {LISTED} memories see vectors as their model does, {without[0]!r} for one: "
            f"`attractor memory rebuild {without[0]} --metric own` tells those that are alike apart",
        )


def _guard(what: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield look()
    except ServerError as error:
        yield Finding("wrong", what, error.message)
    except ImportError as error:
        yield Finding("wrong", what, f"cannot be looked at: {error}")
