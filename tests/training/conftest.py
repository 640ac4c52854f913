"""What all trainings in tests share."""

import functools
from collections.abc import Iterator

import pytest

from attractor_server.training import posterior, run
from attractor_server.training.validation import fit_ridge


@pytest.fixture(scope="package", autouse=True)
def quick_posterior() -> Iterator[None]:
    """A posterior that is hardly fitted, for the same reason."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "ITERATIONS", 4)
        yield


@pytest.fixture(scope="package", autouse=True)
def quick_ridge() -> Iterator[None]:
    """A baseline that is fitted in one round: a training's record only has to have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit_ridge", functools.partial(fit_ridge, rounds=1))
        yield
