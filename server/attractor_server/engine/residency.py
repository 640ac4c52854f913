"""How pages are held: which of the ways there are, and the bank that a model gets."""

from dataclasses import dataclass
from pathlib import Path

from attractor_server.energy.model import Model
from attractor_server.engine.bank import Bank


@dataclass(frozen=True, kw_only=True)
class Residency:
    """How the banks of an engine hold pages, and where those go that they have no room for."""

    folder: Path | None = None
    """For the files of pages that left; None: files without a name, gone with the process"""


def bank_for(model: Model, *, limit_bytes: int, residency: Residency) -> Bank:
    """An empty bank for pages of that model."""
    del residency
    return Bank(model.parameters.initial, limit_bytes=limit_bytes)
