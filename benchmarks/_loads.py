"""Loads on a server: callers that wait for their answers, and arrivals that do not wait for anything."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import anyio
import numpy as np
from _tenants import Vectors

Query = Callable[[int], Awaitable[object]]


async def run_closed_loop(query: Query, *, callers: int, seconds: float) -> float:
    """Return queries a second of so many callers, each with one query under way."""
    answered, number = 0, 0
    started_s = time.perf_counter()
    end_s = started_s + seconds

    async def call() -> None:
        nonlocal answered, number
        while time.perf_counter() < end_s:
            number += 1
            await query(number)
            answered += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(call)
    return answered / (time.perf_counter() - started_s)


async def run_open_loop(query: Query, *, rate: float, seconds: float) -> Vectors:
    """Return the seconds from each arrival of a Poisson process to its answer, whenever it was really sent."""
    gaps_s = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
    took_s: list[float] = []

    async def ask(number: int, due_s: float) -> None:
        await query(number)
        took_s.append(time.perf_counter() - due_s)

    started_s = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number, due_s in enumerate(started_s + np.cumsum(gaps_s)):
            if (left_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(left_s)
            tasks.start_soon(ask, number, float(due_s))
    return np.array(took_s, np.float32)


async def time_lone_queries(query: Query, *, count: int) -> float:
    """Return the median seconds of a query while there is no other."""
    took_s = []
    for number in range(count):
        started_s = time.perf_counter()
        await query(number)
        took_s.append(time.perf_counter() - started_s)
    return float(np.median(took_s))
