"""Baselines without our attractors, to measure a memory against."""

from attractor_server.training.baselines.memoryless import ConditionalGaussian, Ridge
from attractor_server.training.baselines.rival import Rival
from attractor_server.training.baselines.slots import find_nearest, look_up

__all__ = ["ConditionalGaussian", "Ridge", "Rival", "find_nearest", "look_up"]
