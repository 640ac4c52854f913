"""How pages are held: which of the ways there are, and the bank that a model gets."""

from dataclasses import dataclass
from pathlib import Path

from attractor_server.energy.model import Model
from attractor_server.engine.bank import Bank
from attractor_server.engine.forms import Precision, form_of, page_bytes
from attractor_server.engine.keeper import Keeper
from attractor_server.engine.shelf import Shelf
from attractor_server.storage.page_file import PageFile

_DIGEST_LETTERS = 12


@dataclass(frozen=True, kw_only=True)
class Residency:
    """How the banks of an engine hold pages, and where those go that they have no room for."""

    precision: Precision = "float32"
    folder: Path | None = None
    """For a file of pages for each model, of this engine alone; None: files without a name, in the system's folder for
    temporary ones"""


def bank_for(
    model: Model, *, limit_bytes: int, residency: Residency, keeper: Keeper | None = None
) -> tuple[Bank, Shelf]:
    """An empty bank for pages of that model, and the shelf behind it: a file, and what the backend store has."""
    initial, precision = model.parameters.initial, residency.precision
    below = PageFile(
        None if residency.folder is None else residency.folder / _file_name(model),
        image_bytes=page_bytes(precision, initial),
        kept_values=model.capacity * model.layout.size,
    )
    shelf = Shelf(below, keeper, initial=initial, form=form_of(precision, initial))
    return Bank(initial, limit_bytes=limit_bytes, store=shelf, precision=precision), shelf


def _file_name(model: Model) -> str:
    """Of no other model: names may be taken twice, digests are not."""
    digest = model.digest.rpartition(":")[2]
    return f"{model.name}-{digest[:_DIGEST_LETTERS]}.pages"
