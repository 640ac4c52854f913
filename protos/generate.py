"""Write the Python stubs of the contract beside the .proto files (`make protos`).

`--check` only compares; `--descriptors FILE` writes one descriptor set instead, for buf, which could not resolve
the google imports by itself without a network. The set of a release is committed as `attractor-VERSION.binpb`.
"""

import argparse
import filecmp
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent


def compile_protos(*options: str) -> None:
    """Run protoc over every .proto file; the includes come with grpcio-tools and googleapis-common-protos."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    includes = (ROOT, files("grpc_tools") / "_proto", files("google.rpc") / ".." / "..")
    if protoc.main(["protoc", *(f"-I{path}" for path in includes), *options, *sources]) != 0:
        sys.exit("protoc failed; its message stands above")


def generate(output: Path) -> list[Path]:
    """Write the stubs of every .proto file and return them, relative to `output`."""
    scripts = Path(sysconfig.get_path("scripts"))  # so that the environment need not be activated
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    kinds = ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:")
    outputs = [f"--{kind}{output}" for kind in kinds]
    compile_protos(*plugins, *outputs)
    return stubs_in(output)


def stubs_in(folder: Path) -> list[Path]:
    """Return every stub below a folder, relative to it."""
    return sorted(path.relative_to(folder) for pattern in ("*_pb2*.py", "*_pb2*.pyi") for path in folder.rglob(pattern))


def stale(fresh: Path, stubs: list[Path]) -> list[Path]:
    """Return stubs that are missing or stale, or have no .proto file any more."""
    _, different, missing = filecmp.cmpfiles(fresh, ROOT, map(str, stubs), shallow=False)
    return sorted([*map(Path, different), *map(Path, missing), *(set(stubs_in(ROOT)) - set(stubs))])


def main() -> None:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the stubs are not what would be written")
    parser.add_argument("--descriptors", type=Path, help="write a descriptor set to this file")
    arguments = parser.parse_args()
    if arguments.descriptors:
        compile_protos("--include_imports", "--include_source_info", f"--descriptor_set_out={arguments.descriptors}")
        return
    if not arguments.check:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        if differing := stale(Path(folder), generate(Path(folder))):
            sys.exit(f"stale stubs, run `make protos`: {', '.join(map(str, differing))}")


if __name__ == "__main__":
    main()
