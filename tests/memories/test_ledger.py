"""Which stores and erases a memory remembers of its clients, in little memory."""

import tracemalloc
from typing import Any

import pytest

from attractor_server.errors import NumberReused, SequenceForgotten
from attractor_server.memories.catalog import Catalog
from attractor_server.memories.ledger import REMEMBERED_ANSWERS, Applied
from attractor_server.memories.memory import KNOWN_CLIENTS, REMEMBERED_CLIENTS, MemoryRecord
from attractor_server.memories.settings import MemorySettings

SETTINGS = MemorySettings(page_patterns=8)


def record() -> "MemoryRecord":
    catalog: Catalog = Catalog()
    return catalog.create("a", model="m", model_digest="d", settings=SETTINGS)


def test_a_number_is_answered_as_it_was_first_and_a_new_one_is_none() -> None:
    ledger: Any = record().ledger("client")
    assert ledger.find(1) is None
    for sequence in (1, 2, 4):
        ledger.enter(sequence, f"answer {sequence}")
    assert [ledger.find(sequence) for sequence in range(1, 6)] == ["answer 1", "answer 2", None, "answer 4", None]
    ledger.settle(2, Applied(version=7, patterns=1 << 40, erases=False))
    ledger.settle(1, Applied(version=8, patterns=2, erases=True))
    ledger.strike(4)
    assert [ledger.find(sequence) for sequence in (1, 2, 4)] == [Applied(8, 2, True), Applied(7, 1 << 40, False), None]
    assert ledger.last == 4


def test_numbers_that_are_like_other_figures_are_not_taken_for_them() -> None:
    ledger: Any = record().ledger("client")
    ledger.settle(5, Applied(version=3, patterns=4, erases=False))
    assert [ledger.find(sequence) for sequence in (3, 4, 5)] == [None, None, Applied(3, 4, False)]


def test_what_is_too_old_is_said_to_be_forgotten() -> None:
    ledger: Any = record().ledger("client")
    for sequence in range(1, REMEMBERED_ANSWERS + 3):
        ledger.settle(sequence, Applied(sequence, sequence, False))
    for sequence in (1, 2):
        with pytest.raises(SequenceForgotten, match=f"sequence: {sequence} is older"):
            ledger.find(sequence)
    assert ledger.find(3) == Applied(3, 3, False)
    ledger.forget(3)
    with pytest.raises(SequenceForgotten):
        ledger.find(3)


def test_of_the_client_that_was_silent_for_longest_the_highest_number_alone_is_at_hand() -> None:
    memory = record()
    clients = [f"client {number}" for number in range(REMEMBERED_CLIENTS)]
    for client in clients:
        memory.ledger(client).settle(9, Applied(1, 1, False))
    memory.ledger(clients[0])
    memory.ledger("new").settle(1, Applied(2, 2, False))
    assert [memory.last_sequence(client) for client in (*clients[:3], "new", "stranger")] == [9, 9, 9, 1, 0]
    assert [memory.ledger(client).elsewhere for client in (clients[1], clients[3])] == [9, 0]


def test_of_clients_that_are_too_many_nothing_is_at_hand_and_the_store_is_to_forget_them() -> None:
    memory = record()
    memory.id = 1
    clients = [f"client {number}" for number in range(KNOWN_CLIENTS + 2)]
    for client in clients:
        memory.ledger(client).settle(9, Applied(1, 1, False))
    assert [memory.last_sequence(client) for client in clients[:3]] == [0, 0, 9]
    assert memory.departed == clients[:2]
    memory.forgot(1)
    assert memory.departed == clients[1:2]


def test_a_number_that_comes_again_with_something_else_is_refused() -> None:
    ledger: Any = record().ledger("client")
    ledger.enter(1, "under way", 11)
    ledger.settle(2, Applied(1, 1, False, 22))
    assert [ledger.find(1, 11), ledger.find(2, 22), ledger.find(2)] == [
        "under way",
        Applied(1, 1, False, 22),
        Applied(1, 1, False, 22),
    ]
    for sequence in (1, 2):
        with pytest.raises(NumberReused, match=f"sequence: {sequence} was given before"):
            ledger.find(sequence, 33)


def test_a_memory_with_stores_of_a_client_takes_little_beside_its_page() -> None:
    catalog: Catalog = Catalog()
    client = "client"

    def fill(prefix: str) -> None:
        for number in range(1000):
            made = catalog.create(f"{prefix}/{number}", model="m", model_digest="d", settings=SETTINGS)
            for sequence in range(1, 33):
                ledger: Any = made.ledger(client)
                ledger.enter(sequence, object())
                ledger.settle(sequence, Applied(1000 + sequence, 1000 + sequence, False))

    fill("before")
    tracemalloc.start()
    try:
        fill("measured")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 1000 < 2048
