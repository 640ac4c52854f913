"""No request, whatever is in it, makes a fault of the server, or changes what somebody else's memory answers.

2,000 requests are drawn with the tests, as many as wanted by `make fuzz REQUESTS=…`. What was found is in the corpus.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.support.fuzz_messages import requests_of
from tests.support.fuzz_target import CALLERS, METHODS, Sent, Target
from tests.support.tiny_models import write_models

TOGETHER = 20
REQUESTS = int(os.environ.get("ATTRACTOR_FUZZED", "2000"))
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
"""A file each: named by the method; of messages as text, those of a stream apart by ---, or of the bytes of one"""
FRAMES = 4


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("fuzz")
        yield Target.started(stack, folder, write_models(folder))


CALLER = st.integers(0, 3).flatmap(lambda at: st.sampled_from(CALLERS) if at == 0 else st.just(CALLERS[0]))


@cache
def sent_to(method: str) -> SearchStrategy[Sent]:
    """Draw what is sent to a method: mostly messages of its kind, sometimes bytes that are none."""
    of_kind = requests_of(GetMessageClass(METHODS[method].input_type))
    cuts = st.tuples(st.integers(0, 200), st.binary(max_size=4))
    broken = st.tuples(of_kind, cuts).map(lambda drawn: drawn[0].SerializeToString()[: drawn[1][0]] + drawn[1][1])
    one: SearchStrategy[Message | bytes] = st.integers(0, 9).flatmap(lambda at: broken if at == 0 else of_kind)
    several = METHODS[method].client_streaming
    messages = st.lists(one, min_size=1, max_size=FRAMES if several else 1)
    return st.tuples(messages, CALLER).map(lambda drawn: Sent(method, *drawn))


ANY = st.sampled_from(sorted(METHODS)).flatmap(sent_to)


@pytest.mark.timeout(240 + REQUESTS // 4)
def test_no_drawn_request_makes_a_fault_or_touches_another_memory(target: Target) -> None:
    @settings(
        max_examples=max(1, REQUESTS // TOGETHER),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # what fails is one request, which is told: no time goes into others
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(ANY, min_size=TOGETHER, max_size=TOGETHER))
    def send(requests: list[Sent]) -> None:
        for one in requests:
            target.send(one)
        target.check()

    send()
    target.check_bits()


@pytest.mark.parametrize("path", CORPUS, ids=[path.name for path in CORPUS])
def test_what_was_once_a_fault_is_answered(target: Target, path: Path) -> None:
    target.send(sent_of(path))
    target.check()


def sent_of(path: Path) -> Sent:
    """Read a file of the corpus: its name begins with service and method."""
    service, name, *_ = path.name.split(".")
    method = f"{service}.{name}"
    if path.suffix == ".bin":
        return Sent(method, [path.read_bytes()])
    kind = GetMessageClass(METHODS[method].input_type)
    return Sent(method, [text_format.Parse(text, kind()) for text in path.read_text().split("---\n")])
