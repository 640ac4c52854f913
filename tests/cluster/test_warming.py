"""A server warms its models before it says that it is ready."""

from pathlib import Path

from tests.cluster.process import drained, server_process


def test_a_server_tells_how_long_each_model_took_to_warm(models: Path) -> None:
    warm = ("--models", str(models), "--port", "0", "--warm-up", "yes", "--log-level", "info")
    with server_process(*warm) as server:
        told = " ".join(drained(server.errors))
        listed = server.ready.partition("models: ")[2].partition(";")[0].split(", ")
        assert "tiny" in listed
        assert all(f"{name} is warm after" in told for name in listed)
