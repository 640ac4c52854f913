"""A server as users start it, with an admin port and logs as JSON: what probes and log collectors see of it."""

import json
import socket
from pathlib import Path

from tests.support.admin_port import ask
from tests.support.server_process import drained, server_process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_admin_port_and_the_log_go_from_the_stand_in_to_the_shard(models: Path, tmp_path: Path) -> None:
    admin = free_port()
    arguments = ("--models", str(models), "--port", "0", "--data-dir", str(tmp_path / "data"))
    watched = ("--admin-port", str(admin), "--log-format", "json", "--log-level", "info")
    with server_process(*arguments, *watched, early=True) as server:
        assert ask(f"127.0.0.1:{admin}", "/readyz") == (200, "serving\n")
        server.relieve()
        assert ask(f"127.0.0.1:{admin}", "/readyz") == (200, "serving\n")
        _, text = ask(f"127.0.0.1:{admin}", "/metrics")
        assert "attractor_ownership_groups 64.0" in text
        assert server.stop() == 0
        lines = [json.loads(line) for line in drained(server.errors) if line.startswith("{")]
    assert any("stand-in serves" in line["message"] and "shard" not in line for line in lines)
    claims = [line for line in lines if line.get("shard") == 0 and line["message"].startswith("claimed 64")]
    assert [(line["level"], line["logger"], line["epoch"]) for line in claims] == [
        ("INFO", "attractor_server.shard.ownership", 1)
    ]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
