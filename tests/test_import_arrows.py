"""Who may import whom, module by module, in an interpreter that refuses everything else."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "attractor": ROOT / "client/attractor",
    "attractor_agents": ROOT / "client/attractor_agents",
    "attractor_server": ROOT / "server/attractor_server",
}

TORCH = (
    *("torch", "torchgen", "functorch", "numpy"),
    # what torch itself needs to be imported
    *("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy", "typing_extensions"),
)
RECIPES = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection")
RAY_TRAIN = "attractor_server.training.ray_train"
TRITON = "attractor_server.engine.compute.triton_bilinear"
GRPC = (
    *("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "typing_extensions"),
    *("anyio", "idna", "numpy"),
)
PLAIN = ("numpy", "anyio", "idna", "typing_extensions", "google")
KEPT = (*GRPC, "apsw", "msgpack", "psycopg", "psycopg_binary", "obstore")

IMPORTER = """
import importlib, importlib.abc, json, sys, traceback

modules, allowed = json.loads(sys.argv[1])
allowed = {*allowed, *sys.stdlib_module_names}

class Refusal(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"{name} is not to be imported here", name=name)

sys.meta_path.insert(0, Refusal())
faults = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception:
        faults[module] = traceback.format_exc()
print(json.dumps(faults))
"""


def modules_in(package: str) -> Iterator[str]:
    """Every module on disk, so that a new one is covered at once."""
    root, *folders = package.split(".")
    base = PACKAGES[root]
    for path in sorted(base.joinpath(*folders).rglob("*.py")):
        parts = path.relative_to(base.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def faults_in(package: str, allowed: tuple[str, ...]) -> dict[str, str]:
    """Tracebacks of the modules that cannot be imported with the standard library and what is allowed."""
    arguments = json.dumps([list(modules_in(package)), [*allowed, "attractor_proto", package.partition(".")[0]]])
    command = [sys.executable, "-I", "-c", IMPORTER, arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
    faults: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return faults


def each_module_of(*packages: str, but: str = "") -> pytest.MarkDecorator:
    cases = [(package, module) for package in packages for module in modules_in(package) if module != but]
    return pytest.mark.parametrize(("package", "module"), cases, ids=[module for _, module in cases])


@each_module_of("attractor_server.energy", "attractor_server.engine", but=TRITON)
def test_the_science_is_imported_where_only_torch_is_installed(package: str, module: str) -> None:
    fault = faults_in(package, TORCH).get(module)
    assert fault is None, fault


def test_one_file_of_the_engine_needs_triton() -> None:
    assert "triton is not to be imported here" in faults_in("attractor_server.engine", TORCH)[TRITON]


@each_module_of("attractor_server.training", but=RAY_TRAIN)
def test_training_is_imported_where_only_torch_and_what_checks_recipes_are_installed(package: str, module: str) -> None:
    fault = faults_in(package, TORCH + RECIPES).get(module)
    assert fault is None, fault


def test_one_file_of_training_needs_ray() -> None:
    assert "ray is not to be imported here" in faults_in("attractor_server.training", TORCH + RECIPES)[RAY_TRAIN]


@each_module_of(
    "attractor_server.identity", "attractor_server.memories", "attractor_server.sharding", "attractor_server.scheduling"
)
def test_the_domain_and_the_scheduler_need_numpy_alone(package: str, module: str) -> None:
    fault = faults_in(package, PLAIN).get(module)
    assert fault is None, fault


@each_module_of("attractor_server.rpc", "attractor_server.shard", "attractor_server.storage")
def test_what_speaks_and_what_keeps_loads_neither_torch_nor_ray(package: str, module: str) -> None:
    fault = faults_in(package, KEPT).get(module)
    assert fault is None, fault


@each_module_of("attractor")
def test_the_client_loads_its_own_dependencies_alone(package: str, module: str) -> None:
    fault = faults_in(package, GRPC).get(module)
    assert fault is None, fault


FRAMEWORKS = tuple(f"attractor_agents.{name}" for name in ("hatch_build", "langchain", "langgraph", "mcp"))


@pytest.mark.parametrize("module", [name for name in modules_in("attractor_agents") if not name.startswith(FRAMEWORKS)])
def test_memories_of_texts_load_the_client_and_no_framework(module: str) -> None:
    fault = faults_in("attractor_agents", (*GRPC, "attractor")).get(module)
    assert fault is None, fault


def test_importing_attractor_loads_neither_torch_nor_ray_nor_the_server() -> None:
    script = "import sys, attractor; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-I", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert {"torch", "ray", "attractor_server"}.isdisjoint(run.stdout.split())


def test_without_the_cluster_and_its_workers_nothing_loads_ray() -> None:
    composition = (
        RAY_TRAIN,
        "attractor_server.cluster",
        "attractor_server.app",
        "attractor_server.cli",
        "attractor_server.demo",
    )
    modules = [name for name in modules_in("attractor_server") if not name.startswith(composition)]
    script = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    command = [sys.executable, "-I", "-c", script, *modules]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
    assert "ray" not in run.stdout.split()
