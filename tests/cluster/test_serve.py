"""`attractor serve` over real Ray: starting, losing a shard, and ending at once."""

import threading
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tests.support.cluster_calls import supervisors
from tests.support.postgresql import PostgresServer
from tests.support.server_process import ServerProcess, drained, server_process, until, words

import attractor
from attractor_proto.names import slot_of
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc

ONE = np.full((4, 4), 0.5, np.float32)
QUICK = attractor.Retry(first_delay_s=0.02, limit_delay_s=0.2)


def name_on(shard: int, prefix: str) -> str:
    """A name whose slot the shard of that number owns, of two."""
    return next(name for n in range(100) if slot_of(name := f"{prefix}/{n}") % 2 == shard)


def test_the_ready_line_says_where_and_what_and_where_memories_are_kept(server: ServerProcess) -> None:
    for part in ("127.0.0.1:", "2 shards (cpu)", "models: ", "pair", "tiny", "memories are kept in /"):
        assert part in server.ready


def test_every_memory_is_reached_at_either_address(server: ServerProcess) -> None:
    ports = sorted(server.shard_processes())
    assert len(ports) == 2
    names = [name_on(shard, "reached") for shard in (0, 1)]
    for port in ports:
        with attractor.Client(f"127.0.0.1:{port}") as client:
            for name in names:
                assert client.create_memory(name, model="tiny").store(ONE).total > 0
            assert {info.name for info in client.memories("reached/")} == set(names)


def test_shards_have_the_priority_of_what_started_the_server(server: ServerProcess) -> None:
    assert {process.nice() for process in server.shard_processes().values()} == {psutil.Process().nice()}


def test_only_shards_load_torch_and_not_their_supervisor(server: ServerProcess) -> None:
    for processes, loads in ((server.shard_processes().values(), True), (supervisors(server), False)):
        assert processes
        for process in processes:
            assert any("libtorch" in mapped.path for mapped in process.memory_maps()) is loads


def test_ray_starts_no_process_that_only_others_need(server: ServerProcess) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    programs = {Path(word).name for process in family for word in words(process)}
    assert {"gcs_server", "raylet"} <= programs
    assert not {"dashboard.py", "monitor.py", "log_monitor.py"} & programs


def test_nothing_listens_beyond_this_machine_and_ray_asks_for_a_token(server: ServerProcess) -> None:
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    listening = {
        (process.name(), one.laddr.ip.removeprefix("::ffff:"))
        for process in family
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address for _, address in listening} <= {"127.0.0.1", "::1"}, listening
    for process in family:
        if process.name() in ("gcs_server", "raylet"):
            environment = process.environ()
            assert (environment["RAY_AUTH_MODE"], len(environment["RAY_AUTH_TOKEN"])) == ("token", 64)


def test_a_compressed_bomb_is_refused_and_never_unfolds_in_the_shard(server: ServerProcess) -> None:
    size = 512 << 20
    shard = server.shard_processes()[int(server.address.rpartition(":")[2])]
    before = shard.memory_info().rss
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=unlimited, compression=grpc.Compression.Gzip) as channel:
        bomb = pb.StoreRequest(memory="a", tensors=[pb.Tensor(data=bytes(size))])
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            memory_data_pb2_grpc.MemoryDataStub(channel).Store(bomb, timeout=60)
    assert shard.memory_info().rss - before < size // 8


def test_a_killed_shard_comes_back_with_its_memories_and_the_other_one_never_notices(server: ServerProcess) -> None:
    port = int(server.address.rpartition(":")[2])
    spared, hit = name_on(0, "killed"), name_on(1, "killed")
    with attractor.Client(server.address, retry=QUICK) as client:
        for name in (spared, hit):
            assert client.create_memory(name, model="tiny").store(ONE).version == 1
        before = client.memory(hit).query(ONE)
        (victim,) = [process for at, process in server.shard_processes().items() if at != port]
        victim.kill()
        victim.wait(10)
        after = client.memory(hit).query(ONE, timeout_s=60)
        np.testing.assert_allclose(after.pattern, before.pattern, rtol=1e-5, atol=1e-5)
        assert client.memory(spared).store(ONE).version == 2
        assert client.memory(hit).store(ONE, timeout_s=60).version == 2
    until(lambda: len(server.shard_processes()) == 2)
    told = drained(server.errors)
    assert any("shard 1 has ended" in line for line in told)  # seen before Ray told of it
    assert not any("raylet" in line for line in told)


def test_a_folder_that_another_server_has_is_refused(server: ServerProcess, models: Path) -> None:
    with (
        pytest.raises(AssertionError, match="the server with process id"),
        server_process("--models", str(models), "--port", "0", "--data-dir", server.folder),
    ):
        pass


def test_a_taken_port_is_told_in_one_line(server: ServerProcess, models: Path) -> None:
    told = pytest.raises(AssertionError, match="taken")
    with told, server_process("--models", str(models), "--port", server.port):
        pass


def test_a_damaged_store_is_told_in_one_line(models: Path, tmp_path: Path) -> None:
    (tmp_path / "attractor.db").write_bytes(b"something else entirely" * 100)
    with (
        pytest.raises(AssertionError, match=r"ended: \['attractor: [^']*attractor\.db is damaged[^']*\\n'\]"),
        server_process("--models", str(models), "--port", "0", "--data-dir", str(tmp_path)),
    ):
        pass


def test_memories_in_a_database_need_no_folder_have_a_stand_in_and_outlive_the_server(
    models: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    arguments = ("--models", str(models), "--port", "0", "--backend-store-uri", postgres.store())
    with server_process(*arguments, "--data-dir", str(folder), early=True) as server:
        with attractor.Client(server.address, retry=QUICK, timeout_s=20) as client:
            memory = client.create_memory("a", model="tiny")
            assert memory.store(ONE).version == 1
            server.relieve()
            assert "memories are kept in postgresql://127.0.0.1:" in server.ready
            assert memory.store(ONE).version == 2
            postgres.stop()
            postgres.start()
            assert memory.store(ONE).total == 3
        server.kill()
    with server_process(*arguments, early=True) as server, attractor.Client(server.address) as client:
        assert client.memory("a").store(ONE).total == 4
    assert not folder.exists()


def test_nothing_acknowledged_is_lost_or_applied_twice_when_the_whole_server_is_killed(
    server: ServerProcess, models: Path
) -> None:
    """The last one: it ends the server of those before it."""
    answered: list[int] = []
    begun = threading.Event()

    def store() -> None:
        with attractor.Client(server.address, timeout_s=60, retry=QUICK) as client:
            memory = client.create_memory("busy", model="tiny")
            while len(answered) < 40:
                answered.append(memory.store(ONE).version)
                if len(answered) == 20:
                    begun.set()

    worker = threading.Thread(target=store)
    worker.start()
    assert begun.wait(30), drained(server.errors)
    server.kill()
    arguments = ("--models", str(models), "--port", server.port, "--data-dir", server.folder)
    with server_process(*arguments, early=True) as successor:
        worker.join(60)
        assert not worker.is_alive()
        with attractor.Client(successor.address) as client:
            info = client.memory("busy").info()
    assert answered == list(range(1, 41))
    assert (info.version, info.patterns) == (40, 40)
