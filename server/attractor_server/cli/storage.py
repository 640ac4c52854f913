"""The commands `attractor verify`, `attractor backup` and `attractor move`: a store, read without a server."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attractor_server.cli.options import clear_errors, settings_options
from attractor_server.config import Settings, load_settings
from attractor_server.errors import ServerError, SettingsError
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends.base import Fault
from attractor_server.storage.backends.opening import BACKENDS, backend_of, inspect_store
from attractor_server.storage.backends.postgres_password import join_password, read_password
from attractor_server.storage.backends.sqlite_backend import uri_of
from attractor_server.storage.backends.sqlite_copy import ARTIFACTS
from attractor_server.storage.moving import move as move_rows
from attractor_server.storage.moving import move_artifacts as copy_artifacts
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


@click.command()
@click.argument("target")
@settings_options("data_dir", "backend_store_uri", "backend_password_file", "artifact_store")
@click.option("--target-password-file", type=click.Path(path_type=Path), help="File with the password of TARGET.")
@click.option(
    "--target-artifact-store",
    metavar="VALUE",
    help="Artifact store to which large pages and models are copied. Without it they stay where they are.",
)
def move(
    target: str,
    config: Path | None,
    target_password_file: Path | None,
    target_artifact_store: str | None,
    **flags: str | None,
) -> None:
    """Copy all that is kept into the empty store TARGET, a folder or postgresql://USER@HOST/DATABASE, and verify it.

    No server may run with either. Nothing is lost on the way: settings, snapshots, ids, and what was answered to calls
    that may be repeated. Afterwards serve TARGET, and no longer the store that it came from, which is left as it was.
    """
    with clear_errors(damage_status=1):
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)
        named = any(target.startswith(f"{scheme}:") for scheme in BACKENDS)
        there = target if named else uri_of(Path(target).resolve())
        there = join_password(there, read_password(target_password_file))
        artifacts = None if settings.artifacts is None else Artifacts(settings.artifacts, make=False)
        if target_artifact_store is not None:
            if artifacts is None:
                raise SettingsError("target_artifact_store: expected --artifact-store as well, where they are now")
            moved = Artifacts(load_settings({"artifact_store": target_artifact_store}).artifacts or "")
            copy_artifacts(settings.store_uri, artifacts, moved)
            artifacts = moved
        move_rows(settings.store_uri, there)
        seen: Counter[str] = Counter()
        with inspect_store(there) as view:
            faults = _print_faults(find_faults(view, seen, artifacts))
        read = ", ".join(f"{seen[what]} {what}" for what in ("memories", "pages", "entries", "images"))
        click.echo(f"{read} are in {backend_of(there).label(there)} now; {faults or 'nothing'} wrong there")
        if faults:
            sys.exit(1)


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
