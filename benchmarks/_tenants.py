"""Memories without Attractor: fast weights by number, and the same arithmetic for a query."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from attractor_server.engine import compute
from attractor_server.model_registry import load_models

MODEL, MEMORIES, PATTERNS = "embedding-384", 1000, 4
Vectors: TypeAlias = NDArray[np.float32]


class Tenants:
    """Fast weights of all memories side by side, and a model's reading loop over some of them."""

    def __init__(self) -> None:
        """Write some patterns to each memory."""
        torch.set_num_threads(1)
        self.model = load_models(None, device="cpu")[MODEL]
        size = self.model.layout.size
        x = self.model.encode(torch.from_numpy(vectors(MEMORIES * PATTERNS, size))).view(MEMORIES, PATTERNS, -1)
        self.fast = compute.write_pages(
            self.model,
            self.model.parameters.memories(MEMORIES),
            x,
            present=torch.ones(MEMORIES, PATTERNS, dtype=torch.bool),
            stored=torch.zeros(MEMORIES, dtype=torch.long),
        )

    def recall(self, tenants: Sequence[int], cues: Vectors) -> Vectors:
        """Return the completed patterns (queries, d) of one cue for each of these tenants."""
        chosen = torch.tensor(tenants)
        fast = {name: tensor[chosen] for name, tensor in self.fast.items()}
        x = self.model.encode(torch.from_numpy(cues))[:, None]
        with torch.no_grad():
            values: Vectors = self.model.decode(compute.read_pages(self.model, fast, x).pattern)[:, 0].numpy()
        return values


def vectors(count: int, size: int) -> Vectors:
    """Return random vectors of length 1, (count, size)."""
    drawn: Vectors = np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn
