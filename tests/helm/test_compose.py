"""`compose.yaml`: what the server is told there, and what it is kept from."""

from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from attractor_server.cluster.exposure import check_exposure
from attractor_server.config import load_settings

ROOT = Path(__file__).parents[2]


def test_the_server_takes_what_compose_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    server = composed["services"]["attractor"]
    for name, value in server["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert check_exposure(settings)
    assert settings.store_uri.startswith("postgresql://attractor@postgres/")
    assert settings.artifacts == "s3://attractor"
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])  # for it is open to whoever reaches it
    assert server["read_only"] is True
    assert int(server["stop_grace_period"].removesuffix("s")) > settings.grace_s + 15
    assert set(server["depends_on"]) <= composed["services"].keys()
