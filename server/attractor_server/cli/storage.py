"""The commands `attractor verify` and `attractor backup`: a store, read without a server."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attractor_server.cli.options import clear_errors, settings_options
from attractor_server.config import Settings, load_settings
from attractor_server.errors import ServerError
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.base import Fault
from attractor_server.storage.backends.opening import backend_of, inspect_store
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.backends.sqlite_copy import ARTIFACTS
from attractor_server.storage.verify import Found, find_faults, load_pages

if TYPE_CHECKING:
    from attractor_server.engine.operations.replay import Replay


Command = Callable[..., None]

TOLERANCE = 1e-3


@click.command()
@settings_options("data_dir", "backend_store_uri", "backend_password_file", "artifact_store", "models", "bank_dtype")
@click.option("--replay", is_flag=True, help="Also write each page anew from its patterns, and compare the weights.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=TOLERANCE,
    show_default=True,
    help="Of --replay: what a weight may differ by, in parts of the largest change.",
)
def verify(config: Path | None, replay: bool, tolerance: float, **flags: str | None) -> None:
    """Read all that is kept, and name each memory and page that is damaged; exit with 1 if any is.

    Changes nothing, and may run beside a server.
    """
    with clear_errors(damage_status=1):
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        seen: Counter[str] = Counter()
        artifacts = None if settings.artifacts is None else Artifacts(settings.artifacts, make=False)
        with inspect_store(settings.store_uri) as view:
            faults = _print_faults(find_faults(view, seen, artifacts))
            if replay:
                pages = load_pages(view.cursor, artifacts)
                faults += _print_faults(_compare_weights(pages, _load_replay(settings), tolerance, seen))
        read = ", ".join(f"{seen[what]} {what}" for what in ("memories", "pages", "entries", "images"))
        anew = f", {seen['written anew']} pages written anew" if replay else ""
        click.echo(f"{view.name}: {read}{anew}; {faults or 'nothing'} wrong")
        if faults:
            sys.exit(1)


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@settings_options("data_dir", "backend_store_uri", "backend_password_file", "artifact_store")
def backup(target: Path, config: Path | None, **flags: str | None) -> None:
    """Copy all that is kept into the new folder TARGET, beside a running server or without one, and verify the copy.

    A server with `--data-dir TARGET` goes on from it. What is in an artifact store, large pages and models, is copied
    to TARGET/artifacts, which such a server is told by --artifact-store.
    """
    with clear_errors(damage_status=1):
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        backend = backend_of(settings.store_uri)
        artifacts = None if settings.artifacts is None else Artifacts(settings.artifacts, make=False)
        faults = _print_faults(iter(backend.copy(settings.store_uri, target, artifacts)))
        with inspect_store(uri_of(target)) as view:
            copied = None if artifacts is None else Artifacts(target / ARTIFACTS)
            faults += _print_faults(find_faults(view, Counter(), copied))
        if faults:
            click.echo(f"attractor: the copy in {target} is as damaged as its original: {faults} wrong", err=True)
            sys.exit(1)
        click.echo(f"{backend.label(settings.store_uri)} is copied to {target}, and verified there")


def _print_faults(faults: Iterator[Fault]) -> int:
    """Print each fault as it is found; return how many there are."""
    count = 0
    for fault in faults:
        click.echo(fault)
        count += 1
    return count


def _load_replay(settings: Settings) -> "Replay":
    from attractor_server.engine.operations.replay import Replay  # noqa: PLC0415
    from attractor_server.model_registry import load_models  # noqa: PLC0415 - loads torch

    return Replay(load_models(settings.models, device="cpu").values(), precision=settings.bank_dtype)


def _compare_weights(pages: Iterator[Found], replay: "Replay", tolerance: float, seen: Counter[str]) -> Iterator[Fault]:
    for memory, row, stored in pages:
        where = f"memory {memory.name!r}, page {row.number}"
        try:
            distance = replay.measure_distance(memory, row, stored)
        except ServerError as error:
            yield Fault(where, error.message)
            continue
        if distance is None:
            continue
        seen["written anew"] += 1
        if not distance <= tolerance:
            yield Fault(where, f"its weights differ by {distance:.2g} from what its patterns give")
