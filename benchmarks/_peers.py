"""Alternative servers with the same queries: Ray Serve, FastAPI, and gRPC with a call per query.

Each gets the configuration that was fastest here; its name says which. Started one at a time, on one core each.
"""

import asyncio
import logging
import statistics
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import ray
import uvicorn
from _loads import run_closed_loop, time_lone_queries
from _processes import run_server
from _tenants import MEMORIES, Tenants, Vectors
from _unary import Ask, tensor_of, unary
from fastapi import FastAPI, Request, Response
from grpc import aio
from ray import serve

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_proto.v1 import memory_data_pb2_grpc as rpc

BATCH = 256

RAY_MULTIPLEXED = f"Ray Serve, handle, multiplexed, batches of {BATCH}"
RAY_BATCHED = f"Ray Serve, handle, batches of {BATCH} across tenants"
FASTAPI = "FastAPI handler, uvicorn, uvloop, httptools, 64 connections"
GRPC = "unary gRPC handler, grpc.aio, uvloop, 64 callers"


ROUNDS, ROUND_S, LONE_COUNT = 3, 1.5, 100


async def rates_of_peers(cues: Vectors) -> dict[str, float]:
    """Return queries a second by peer, one after another, each alone."""
    figures: dict[str, float] = {}
    async with ray_serve() as (ask_multiplexed, ask_batched):
        figures[RAY_MULTIPLEXED] = await measure_rate(ask_multiplexed, cues, callers=BATCH)
        figures[RAY_BATCHED] = await measure_rate(ask_batched, cues, callers=BATCH)
    async with fastapi() as ask:
        figures[FASTAPI] = await measure_rate(ask, cues, callers=64)
    async with unary_grpc() as ask:
        figures[GRPC] = await measure_rate(ask, cues, callers=64)
    return figures


async def measure_rate(ask: Ask, cues: Vectors, *, callers: int) -> float:
    """Return queries a second, the median of rounds after one to warm up."""
    rounds = [
        await run_closed_loop(
            lambda number: ask(number % MEMORIES, cues[number % 64]), callers=callers, seconds=ROUND_S
        )
        for _ in range(ROUNDS + 1)
    ]
    return statistics.median(rounds[1:])


async def lone_ray_serve(cues: Vectors) -> float:
    """Return the median seconds of a query to Ray Serve while there is no other."""
    async with ray_serve() as (_, ask_batched):
        rounds = [
            await time_lone_queries(lambda number: ask_batched(number, cues[number % 64]), count=LONE_COUNT)
            for _ in range(3)
        ]
    return statistics.median(rounds[1:])


class Replica:
    """Replica with all tenants; a batch of queries is one reading loop."""

    def __init__(self) -> None:
        self._tenants = Tenants()

    @serve.multiplexed(max_num_models_per_replica=1000)  # type: ignore[untyped-decorator]
    async def tenant(self, name: str) -> int:
        """Return the tenant that a multiplexed deployment would load; here it is in memory."""
        return int(name)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.0)
    async def recall(self, asked: Sequence[tuple[int, Vectors]]) -> list[Vectors]:
        """Answer a batch; Ray Serve makes none across tenants where it multiplexes."""
        return list(self._tenants.recall([tenant for tenant, _ in asked], np.stack([cue for _, cue in asked])))

    async def recall_multiplexed(self, cue: Vectors) -> Vectors:
        """Answer a query for the tenant that the call names."""
        tenant = await self.tenant(serve.get_multiplexed_model_id())
        answer: Vectors = await self.recall((tenant, cue))
        return answer

    async def recall_batched(self, tenant: int, cue: Vectors) -> Vectors:
        """Answer a query for the tenant that is an argument."""
        answer: Vectors = await self.recall((tenant, cue))
        return answer


@asynccontextmanager
async def ray_serve() -> AsyncIterator[tuple[Ask, Ask]]:
    """Start one replica on one core, and yield its multiplexed calls and those batched across tenants."""
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # where a replica finds this module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = partial(ray.init, num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        await asyncio.to_thread(start, logging_level=logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        deployment: Any = serve.deployment(Replica, max_ongoing_requests=4096, ray_actor_options={"num_cpus": 1})
        handle: Any = await asyncio.to_thread(serve.run, deployment.bind())

        async def ask_multiplexed(tenant: int, cue: Vectors) -> object:
            return await handle.options(multiplexed_model_id=str(tenant)).recall_multiplexed.remote(cue)

        async def ask_batched(tenant: int, cue: Vectors) -> object:
            return await handle.recall_batched.remote(tenant, cue)

        yield ask_multiplexed, ask_batched
    finally:
        await asyncio.to_thread(serve.shutdown)
        await asyncio.to_thread(ray.shutdown)


@asynccontextmanager
async def fastapi() -> AsyncIterator[Ask]:
    """Start a FastAPI server, and yield its calls: one handler per query, bytes in and out."""
    with run_server(start_fastapi) as address:
        connector = aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(f"http://{address}", connector=connector) as session:

            async def ask(tenant: int, cue: Vectors) -> object:
                async with session.post(f"/{tenant}", data=cue.tobytes()) as response:
                    return np.frombuffer(await response.read(), np.float32)

            yield ask


async def start_fastapi() -> str:
    """Start the server on this event loop, and return its address."""
    tenants, app = Tenants(), FastAPI()

    @app.post("/{tenant}")
    async def query(tenant: int, request: Request) -> Response:
        cue = np.frombuffer(await request.body(), np.float32).copy()
        return Response(tenants.recall([tenant], cue[None]).tobytes(), media_type="application/octet-stream")

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http="httptools", loop="uvloop", access_log=False, log_level="error")
    )
    _KEPT.append(asyncio.create_task(server.serve()))
    while not server.started:  # noqa: ASYNC110 - it gives no event
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return f"{host}:{port}"


class Data(rpc.MemoryDataServicer):
    """Service with one call per query; a memory's name is its number."""

    def __init__(self) -> None:
        self._tenants = Tenants()

    async def Query(self, request: pb.QueryRequest, context: Any) -> pb.QueryResponse:  # noqa: ANN401, N802
        cue = np.frombuffer(request.tensors[0].data, np.float32).copy()
        values = self._tenants.recall([int(request.memory)], cue[None])
        return pb.QueryResponse(tensors=[tensor_of(values)])


@asynccontextmanager
async def unary_grpc() -> AsyncIterator[Ask]:
    """Start a gRPC server, and yield its calls: one per query."""
    with run_server(start_grpc) as address:
        async with unary(address) as ask:
            yield ask


async def start_grpc() -> str:
    """Start the server on this event loop, and return its address."""
    server = aio.server()
    rpc.add_MemoryDataServicer_to_server(Data(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return f"127.0.0.1:{port}"


_KEPT: list[object] = []
"""References to servers and tasks, which end with their last one"""
