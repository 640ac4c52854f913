"""95 % intervals of means."""

import math
import statistics
from collections.abc import Sequence

NORMAL = 1.96
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 %, of 1 to 10 degrees of freedom"""


def over_memories(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the interval's width by the normal law; of one value alone that is not known (NaN)."""
    return statistics.fmean(values), NORMAL * _standard_error(values)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """The same by Student's t: seeds are few."""
    return statistics.fmean(values), student(len(values) - 1) * _standard_error(values)


def student(freedom: int) -> float:
    """The quantile of 97.5 %; beyond 10 degrees of freedom by Cornish and Fisher's series, right to three digits."""
    if freedom < 1:
        return math.nan
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
