"""The short form of `make chaos`: each fault that needs no Ray, a few times, and each sabotage has to be noticed."""

import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 400
"""Half a minute on a machine that has nothing else to do"""


@pytest.mark.timeout(LIMIT_S + 10)
def test_nothing_acknowledged_is_lost_or_doubled_by_any_fault_and_every_sabotage_is_noticed() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short"],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
