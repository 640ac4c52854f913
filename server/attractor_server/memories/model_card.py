"""The card of a model, for modules without torch."""

from collections.abc import Mapping
from typing import Protocol

from attractor_server.fields import Layout


class ModelCard(Protocol):
    """Facts of a model that servicers need."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def layout(self) -> Layout: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    @property
    def record(self) -> Mapping[str, object]: ...  # noqa: D102
    @property
    def weights_bytes(self) -> int: ...  # noqa: D102
    @property
    def page_bytes(self) -> int: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def has_metric(self) -> bool: ...  # noqa: D102
    def takes_image(self, image: bytes) -> bool: ...  # noqa: D102
    @property
    def erases(self) -> bool: ...  # noqa: D102
    @property
    def pulls(self) -> bool: ...  # noqa: D102
