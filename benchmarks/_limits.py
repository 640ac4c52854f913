"""Limits of the machine, measured in the run that is compared with them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.quadratic import Quadratic

SIDE = 2048
"""Side of the matrices whose product gives the peak"""
COPIED_BYTES = 256 << 20
REPEATS = 8


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device's two speeds; one thread of a CPU."""

    peak_flops: float
    """Float operations a second in one large float32 product"""
    bandwidth: float
    """Bytes a second read and written by one large copy"""

    def limit_s(self, *, operations: float, touched_bytes: float) -> float:
        """Return the least time a job can take: max(operations / peak, bytes touched once / bandwidth)."""
        return max(operations / self.peak_flops, touched_bytes / self.bandwidth)


class Ruler:
    """Best speeds of a device over repeated measurements."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.machine = measure(device)

    def again(self) -> Machine:
        """Measure again, and return the best speeds so far."""
        now, before = measure(self.device), self.machine
        self.machine = Machine(
            peak_flops=max(now.peak_flops, before.peak_flops), bandwidth=max(now.bandwidth, before.bandwidth)
        )
        return self.machine


def measure(device: torch.device) -> Machine:
    """Measure both speeds, each the best of some repetitions."""
    one, other = (torch.randn(SIDE, SIDE, device=device) for _ in range(2))
    out = torch.empty_like(one)
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    return Machine(
        peak_flops=2 * SIDE**3 / _least_s(lambda: torch.mm(one, other, out=out), device),
        bandwidth=2 * COPIED_BYTES / _least_s(lambda: target.copy_(source), device),
    )


def settle(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _least_s(job: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    for _ in range(REPEATS + 1):
        settle(device)
        started_s = time.perf_counter()
        job()
        settle(device)
        times.append(time.perf_counter() - started_s)
    return min(times[1:])


class Work(Protocol):
    """Least work of a network's loops for each page of n patterns."""

    @property
    def page_bytes(self) -> int:
        """Bytes of W and b, float32."""

    def count_reading_operations(self, steps: int) -> int:
        """Count the operations."""

    def count_writing_operations(self, steps: int) -> int:
        """Count the operations."""


def work_of(network: object, n: int) -> Work:
    """Return the work of a quadratic network, or of a bilinear one that is entrywise."""
    match network:
        case Quadratic():
            return QuadraticWork(d=network.inputs, h=network.features, n=n)
        case Bilinear(entrywise=True):
            return BilinearWork(d=network.inputs, k=network.keys, v=network.values, n=n)
    raise TypeError(f"no count of operations for {network}")


@dataclass(frozen=True, kw_only=True)
class QuadraticWork:
    """Work of a quadratic network with d entries and h features."""

    d: int
    h: int
    n: int

    @property
    def page_bytes(self) -> int:
        """Bytes of W and b, float32."""
        return 4 * self.h * (self.h + 1)

    def count_reading_operations(self, steps: int) -> int:
        """Count operations: xA, (·)Aᵀ and fW in each step; then xA and fW for the energy after, fW₀ for ΔE."""
        return self.n * (steps * (4 * self.d * self.h + 2 * self.h**2) + 2 * self.d * self.h + 4 * self.h**2)

    def count_writing_operations(self, steps: int) -> int:
        """Count operations: xA and (qx + qb)A; in each step fW, (·)AᵀA, and fᵀc + cᵀf into W."""
        return self.n * (4 * self.d * self.h + steps * 8 * self.h**2)


@dataclass(frozen=True, kw_only=True)
class BilinearWork:
    """Work of a bilinear network with d entries, k keys, and v values, which are entries."""

    d: int
    k: int
    v: int
    n: int

    @property
    def page_bytes(self) -> int:
        """Bytes of W and b, float32."""
        return 4 * self.v * (self.k + 1)

    def count_reading_operations(self, steps: int) -> int:
        """Count operations: xA, (·)Aᵀ, Wk and vW in each step; then xA and Wk for the energy after, W₀k for ΔE."""
        d, k, v = self.d, self.k, self.v
        return self.n * (steps * (4 * d * k + 4 * v * k) + 2 * d * k + 4 * v * k)

    def count_writing_operations(self, steps: int) -> int:
        """Count operations: xA and (qx + qb)A; in each step Wk, vW, both along VᵀA, keys along AᵀA, and two into W."""
        d, k, v = self.d, self.k, self.v
        return self.n * (4 * d * k + steps * (12 * v * k + 2 * k**2))


FORMULA = "limit = max(operations / measured matmul peak, bytes of the pages touched once / measured bandwidth)"
READING = """operations of a read, quadratic = K·(4dh + 2h²) + 2dh + 4h² a query, bilinear = K·(4dk + 4vk) + 2dk + 4vk;
its bytes: each page read once"""
WRITING = """operations of a write, quadratic = 4dh + T·8h² a pattern, bilinear = 4dk + T·(12vk + 2k²);
its bytes: each page read once and written once"""
