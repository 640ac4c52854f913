"""Messages between the parts of a server, as the first version wrote them. They stay as they are."""

from typing import Any

SPEC: dict[str, Any] = {
    "version": 1,
    "number": 3,
    "host": "0.0.0.0",
    "port": 7171,
    "ports": 64,
    "advertise": "shard-3.attractor",
    "follows": 0,
    "place_resource": "attractor_place",
    "device": "cpu",
    "threads": 0,
    "sharing": 1,
    "models": {"path": "/models"},
    "bank_bytes": 1 << 28,
    "bank_dtype": "int8",
    "artifacts": "s3://bucket/prefix",
    "store_uri": "postgresql://?user=attractor&host=database",
    "password_file": {"path": "/run/secrets/password"},
    "asks_password": False,
    "request_bytes": 1 << 29,
    "waiting_patterns": 1000,
    "batch_patterns": 500,
    "batch_s": 0.01,
    "warm_up": False,
    "log_file": {"path": "/proc/1/fd/2"},
    "check_banks": True,
    "lease_s": 3.0,
    "transport": {
        "version": 1,
        "concurrent_streams": 100,
        "keepalive_s": 20.0,
        "keepalive_timeout_s": 5.0,
        "ping_interval_s": 5.0,
        "idle_s": 600.0,
        "age_s": 1800.0,
        "age_grace_s": 10.0,
    },
}

STATUS: dict[str, Any] = {
    "version": 1,
    "info": {"version": 1, "address": "10.0.0.3:7171", "device": "cpu"},
    "process": "shard-3 0f0e/pid:[4026] 77 12345 abcdef012345",
    "models": ("glyphs-28", "text"),
    "warm": True,
    "epoch": 7,
    "known": 8,
    "held": [1, 5, 9],
    "log": ("a line",),
    "node": "c0ffee",
}

SUPERVISOR_STATUS: dict[str, Any] = {
    "version": 1,
    "addresses": ("10.0.0.3:7171", "[fd00::2]:7171"),
    "settled": True,
    "log": (),
    "lacks_password": False,
}

TOPOLOGY: dict[str, Any] = {
    "version": 1,
    "epoch": 8,
    "shards": [
        {"version": 1, "address": "10.0.0.3:7171", "device": "cpu"},
        {"version": 1, "address": "10.0.0.4:7171", "device": "cuda"},
    ],
    "follows_nodes": True,
    "owners": b"\x00\x00\x01\x00" * 512,
}
