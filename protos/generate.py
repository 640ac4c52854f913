"""Writes the Python stubs of the contract beside the .proto files (`make protos`).

`--check` only compares; `--descriptors FILE` writes one descriptor set instead, for buf.
"""

import argparse
import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent


def compile_protos(*options: str) -> None:
    """Runs protoc over every .proto file; the includes come with grpcio-tools and googleapis-common-protos."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    includes = (ROOT, files("grpc_tools") / "_proto", files("google.rpc") / ".." / "..")
    if protoc.main(["protoc", *(f"-I{path}" for path in includes), *options, *sources]) != 0:
        sys.exit("protoc failed; its message stands above")


def generate(output: Path) -> list[Path]:
    """Writes the stubs of every .proto file and returns them, relative to `output`."""
    compile_protos(*(f"--{kind}_out={output}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")))
    return sorted(path.relative_to(output) for path in output.rglob("*_pb2*.py*"))


def stale(fresh: Path, stubs: list[Path]) -> list[Path]:
    """Stubs that are missing or differ from what stands beside the .proto files."""
    return [stub for stub in stubs if not (ROOT / stub).exists() or not filecmp.cmp(fresh / stub, ROOT / stub, False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are not what would be written")
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
