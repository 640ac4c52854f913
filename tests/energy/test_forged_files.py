"""Whole files that no version of this server would write: each is refused, and told what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.model_files import Header, Tensors, forge, refusal, tiny


def test_a_newer_format_is_refused_with_the_way_out(path: Path) -> None:
    forge(path, lambda header, _: header.update(format=3))
    assert "format 3; this version reads up to 2: upgrade" in refusal(path)


def without(part: str, header: Header, tensors: Tensors) -> None:
    for container in (header, header["network"], header["fields"][1], tensors):
        if part in container:
            del container[part]
            return
    raise AssertionError(part)


HEADER = [
    "name",
    "network",
    "options",
    "fields",
    "capacity",
    "record",
    "kind",
    "inputs",
    "features",
    "shape",
    "range",
    "digest",
]


@pytest.mark.parametrize("part", [*HEADER, *tiny().parameters.flat(), "transform.scale", "transform.shift"])
def test_a_missing_part_is_named(path: Path, part: str) -> None:
    forge(path, lambda header, tensors: without(part, header, tensors))
    assert part.removeprefix("reader.").removeprefix("writer.") in refusal(path)


@pytest.mark.parametrize("name", [*tiny().parameters.flat(), "transform.scale", "transform.shift"])
def test_a_tensor_of_another_shape_is_named(path: Path, name: str) -> None:
    def widen(_: Header, tensors: Tensors) -> None:
        tensors[name] = torch.zeros(9, *tensors[name].shape)

    forge(path, widen)
    message = refusal(path)
    assert "has shape" in message
    assert name in message or name in ("reader.log_step", "writer.log_alpha"), "these two tell K and T"


def test_a_tensor_that_nothing_asks_for_is_named(path: Path) -> None:
    forge(path, lambda _, tensors: tensors.update({"writer.log_gamma": torch.zeros(2)}))
    assert "writer.log_gamma has shape (2,), expected None" in refusal(path)


def set_in(header: Header, place: tuple[str | int, ...], value: object) -> None:
    inner: Any = header
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("network", "kind"), "resonator", "network kind 'resonator'; this version knows quadratic"),
        (("network", "kind"), ["quadratic"], "network kind"),
        (("network",), "quadratic", "dictionary"),
        (("network", "features"), 4, "initial.W has shape (3, 3), expected (4, 4)"),
        (("network", "features"), "3", "expected"),
        (("network", "inputs"), -4, "expected"),
        (("fields", 1, "kind"), "smell", "field kind 'smell'; this version knows vector, image, text, audio"),
        (("fields", 1, "shape"), [2], "transform.scale has shape (4,), expected (5,)"),
        (("fields", 1, "shape"), ["a"], "invalid literal"),
        (("fields", 1, "shape"), [-1], "field shape (-1,)"),
        (("fields", 1, "shape"), None, "not iterable"),
        (("fields", 1, "range"), ["0"], "unpack"),
        (("fields", 1, "range"), ["low", "high"], "could not convert"),
        (("fields", 1), "label", "indices"),
        (("fields",), 7, "not iterable"),
        (("capacity",), float("inf"), "infinity"),
        (("capacity",), None, "NoneType"),
        (("record",), "none", "sequence"),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused(
    path: Path, place: tuple[str | int, ...], value: object, reason: str
) -> None:
    forge(path, lambda header, _: set_in(header, place, value))
    assert reason in refusal(path)


def test_fields_of_another_size_than_the_network_takes_are_refused(path: Path) -> None:
    def widen(header: Header, tensors: Tensors) -> None:
        header["fields"][1]["shape"] = [2]
        tensors.update({f"transform.{name}": torch.ones(5) for name in ("scale", "shift")})

    forge(path, widen)
    assert "cannot be meant" in refusal(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_numbers_that_the_loops_do_not_compute_with_are_refused(path: Path, dtype: torch.dtype) -> None:
    forge(path, lambda _, tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()}))
    assert "dtype" in refusal(path)


def test_a_model_without_reading_steps_is_refused(path: Path) -> None:
    def stop(_: Header, tensors: Tensors) -> None:
        tensors.update({f"reader.{name}": torch.zeros(0) for name in ("log_step", "momentum_logit")})

    forge(path, stop)
    assert "reading steps" in refusal(path)
