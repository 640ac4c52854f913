"""Job of the demo as any application would do it: through the SDK, in pipelines, over all memories at once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import attractor
from attractor_server.demo.pictures import Plan
from attractor_server.training.datasets.glyphs import SIDE

MODEL = "glyphs-28"
TRACED = 8
"""Cues whose iterates are drawn"""


@dataclass
class Answers:
    """Answers for one memory: recalled patterns (n, 784), dark 0 to bright 1, and scores (n,)."""

    recalled: Tensor
    by_network: Tensor
    """Patterns recalled from the same cues by the network alone"""
    unwritten: Tensor
    """Patterns recalled from the same cues in an empty memory"""
    stored_delta: Tensor
    unseen_delta: Tensor
    stored_probability: Tensor
    unseen_probability: Tensor


@dataclass
class Report:
    """Answers by memory, energies of some cues over the reading steps (steps + 1, cues), and times."""

    answers: list[Answers]
    energies: NDArray[np.float32]
    store_s: float
    query_s: float


async def run_job(address: str, plans: Sequence[Plan]) -> Report:
    """Store every pattern one at a time, then query with every cue."""
    async with attractor.connect(address) as client:
        memories = [await client.create_memory(f"demo/{n:02}", model=MODEL) for n in range(len(plans))]
        empty = await client.create_memory("demo/empty", model=MODEL)
        started_s = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for memory, plan in zip(memories, plans, strict=True):
                tasks.start_soon(_store, memory, plan)
        stored_s = time.perf_counter()
        recalls: list[list[attractor.Recall]] = [[] for _ in plans]
        async with anyio.create_task_group() as tasks:
            for memory, plan, recall in zip(memories, plans, recalls, strict=True):
                tasks.start_soon(_query, memory, plan, recall)
        queried_s = time.perf_counter()
        answers = [
            await _collect_answers(memory, empty, plan, recall)
            for memory, plan, recall in zip(memories, plans, recalls, strict=True)
        ]
        traced = await memories[0].query(_to_images(plans[0].cues[:TRACED]), trajectory=True, kept=False)
        assert traced.trajectory is not None
        return Report(answers, traced.trajectory.energy, stored_s - started_s, queried_s - stored_s)


async def _store(memory: attractor.AsyncMemory, plan: Plan) -> None:
    async with memory.stream() as stream:
        async for _ in stream.store(iter(_to_images(plan.stored))):
            pass


async def _query(memory: attractor.AsyncMemory, plan: Plan, recalls: list[attractor.Recall]) -> None:
    async with memory.stream() as stream:
        recalls.extend([recall async for recall in stream.query(iter(_to_images(plan.cues)))])


async def _collect_answers(
    memory: attractor.AsyncMemory, empty: attractor.AsyncMemory, plan: Plan, recalls: Sequence[attractor.Recall]
) -> Answers:
    unwritten = await empty.query(_to_images(plan.cues))
    by_network = await memory.query(_to_images(plan.cues), kept=False)
    unseen = await memory.recognize(_to_images(plan.unseen_cues))
    assert unseen.probability is not None
    return Answers(
        recalled=_to_patterns(np.stack([recall.pattern for recall in recalls])),
        by_network=_to_patterns(by_network.pattern),
        unwritten=_to_patterns(unwritten.pattern),
        stored_delta=torch.tensor([float(recall.delta_energy) for recall in recalls]),
        unseen_delta=torch.from_numpy(unseen.delta_energy),
        stored_probability=torch.tensor([_probability_of(recall) for recall in recalls]),
        unseen_probability=torch.from_numpy(unseen.probability),
    )


def _probability_of(recall: attractor.Recall) -> float:
    assert recall.probability is not None
    return float(recall.probability)


def _to_images(patterns: Tensor) -> NDArray[np.float32]:
    """Return images as the SDK takes them: (n, 28, 28) from 0 to 1."""
    images: NDArray[np.float32] = patterns.reshape(-1, SIDE, SIDE).numpy()
    return images


def _to_patterns(images: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(images).flatten(1)
