"""Writes the Python stubs of the contract beside the .proto files (`make protos`); `--check` only compares."""

import argparse
import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent


def generate(output: Path) -> list[Path]:
    """Runs the generator over every .proto file and returns the stubs, relative to `output`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    bundled = files("grpc_tools") / "_proto"
    google_rpc = files("google.rpc") / ".."  / ".."
    arguments = ["protoc", f"-I{ROOT}", f"-I{bundled}", f"-I{google_rpc}"]
    arguments += [f"--{kind}_out={output}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main([*arguments, *sources]) != 0:
        sys.exit("protoc failed; its message stands above")
    return sorted(path.relative_to(output) for path in output.rglob("*_pb2*.py*"))


def stale(fresh: Path, stubs: list[Path]) -> list[Path]:
    """Stubs that are missing or differ from what stands beside the .proto files."""
    return [stub for stub in stubs if not (ROOT / stub).exists() or not filecmp.cmp(fresh / stub, ROOT / stub, False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are not what would be written")
    if not parser.parse_args().check:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        if differing := stale(Path(folder), generate(Path(folder))):
            sys.exit(f"stale stubs, run `make protos`: {', '.join(map(str, differing))}")


if __name__ == "__main__":
    main()
