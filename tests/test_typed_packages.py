"""Every package says that it is typed (PEP 561)."""

from importlib.resources import files

import pytest


@pytest.mark.parametrize("package", ["attractor", "attractor_agents", "attractor_proto", "attractor_server"])
def test_type_checkers_take_the_annotations_of_a_package(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()
