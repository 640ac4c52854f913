"""Timeouts that are none, and very long ones."""

import threading
from datetime import timedelta

import numpy as np
import pytest

import attractor


async def test_a_timeout_that_is_no_number_is_refused_and_one_beyond_all_bounds_is_none(
    client: attractor.AsyncClient,
) -> None:
    memory = await client.create_memory("a", model="tiny", timeout_s=1e10)
    for none in (float("nan"), "60", timedelta(seconds=60)):
        with pytest.raises(attractor.InvalidRequest, match=r"timeout_s: saw .*; expected a number of seconds"):
            await memory.query(np.zeros((4, 4), np.float32), timeout_s=none)  # type: ignore[arg-type]
    for timeout_s in (1e10, threading.TIMEOUT_MAX, float("inf")):
        assert (await memory.info(timeout_s=timeout_s)).patterns == 0
