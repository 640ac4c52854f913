"""Questions that come at about the same time are asked in one go."""

import threading
from collections.abc import Sequence

import anyio
import anyio.to_thread
import pytest

from attractor_server.errors import StoreFailed
from attractor_server.shard.directory import Coalescer


class Doubling:
    """A store that takes its time over the first visit, for the others to gather."""

    def __init__(self) -> None:
        self.visits: list[int] = []
        self.go_on = threading.Event()
        self.fails = False

    def __call__(self, wishes: Sequence[int]) -> Sequence[int]:
        self.visits.append(len(wishes))
        assert self.go_on.wait(10)
        if self.fails:
            self.fails = False
            raise StoreFailed("not now")
        return [2 * wish for wish in wishes]


async def asked(together: "Coalescer[int, int]", store: Doubling, count: int) -> dict[int, int | StoreFailed]:
    answers: dict[int, int | StoreFailed] = {}

    async def ask(wish: int) -> None:
        try:
            answers[wish] = await together.ask(wish)
        except StoreFailed as error:
            answers[wish] = error

    async with anyio.create_task_group() as tasks:
        for wish in range(count):
            tasks.start_soon(ask, wish)
        while not store.visits:  # noqa: ASYNC110 - of another thread
            await anyio.sleep(0.001)
        store.go_on.set()
    return answers


@pytest.fixture
def store() -> Doubling:
    return Doubling()


@pytest.fixture
def together(store: Doubling) -> "Coalescer[int, int]":
    return Coalescer(store, anyio.CapacityLimiter(1), limit=40)


async def test_all_who_wait_are_answered_by_few_visits_each_with_its_own(
    together: "Coalescer[int, int]", store: Doubling
) -> None:
    assert await asked(together, store, 100) == {wish: 2 * wish for wish in range(100)}
    assert len(store.visits) <= 4
    assert max(store.visits) <= 40


async def test_a_visit_that_fails_is_told_to_one_and_tried_again_by_the_others(
    together: "Coalescer[int, int]", store: Doubling
) -> None:
    store.fails = True
    answers = await asked(together, store, 20)
    failed = [wish for wish, answer in answers.items() if isinstance(answer, StoreFailed)]
    assert len(failed) == 1
    assert all(answer == 2 * wish for wish, answer in answers.items() if wish not in failed)


async def test_who_no_longer_waits_is_not_asked_for(together: "Coalescer[int, int]", store: Doubling) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(together.ask, 1)
        while not store.visits:  # noqa: ASYNC110 - of another thread
            await anyio.sleep(0.001)
        with anyio.move_on_after(0.05):
            await together.ask(2)
        store.go_on.set()
    assert await together.ask(3) == 6
    assert store.visits == [1, 1]
