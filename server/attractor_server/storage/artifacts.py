"""The artifact store: objects in a folder or a bucket, too large for a row of the backend store."""

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from attractor_server.errors import SettingsError, StoreDamaged, StoreFailed
from attractor_server.files import make_folder
from attractor_server.recorder import SILENT, Recorder

MODELS: Final = "models"
"""The kind of models' files"""
SCHEMES: Final = ("s3://", "gs://", "az://")
_TIMEOUT: Final = timedelta(seconds=10)
_RETRIES: Final = 3
_NONCE_BYTES: Final = 8
_HELP: Final = "restore it, rebuild the memory if its patterns are kept, or delete it"


class Artifacts:
    """Objects, each named by its content and by chance, so that none is ever put twice. Thread-safe."""

    def __init__(self, place: Path | str, *, make: bool = True, recorder: Recorder = SILENT) -> None:
        """A folder, made if need be unless told not to, or the address of a bucket.

        A bucket's keys, and its endpoint, are in the environment, in its vendor's variables.

        Raises:
            SettingsError: the address cannot be meant, or the folder is not there, or cannot be made.
        """
        self._place = place
        self._recorder = recorder
        self._folder = place if isinstance(place, Path) else None
        try:
            self._store = _open(place, make=make)
        except (BaseError, OSError, ValueError) as error:
            raise SettingsError(
                f"artifact_store: saw {str(place)!r}: {_first_line(error)}; expected a folder, or {', '.join(SCHEMES)}…"
            ) from error

    def __str__(self) -> str:
        return str(self._place)

    def put(self, kind: str, content: bytes) -> str:
        """Keep an object, and return its location. It was read back, and is on the disk, at return.

        Raises:
            StoreFailed: it could not be kept.
        """
        digest = hashlib.sha256(content).hexdigest()
        location = f"{kind}/{digest[:2]}/{digest}-{secrets.token_hex(_NONCE_BYTES)}"
        self.put_at(location, content)
        return location

    def put_at(self, location: str, content: bytes) -> None:
        """Keep an object at a location that no other content ever has. It was read back, and is on the disk, at return.

        Raises:
            StoreFailed: it could not be kept.
        """
        with self._translate_errors(location, "put"):
            obstore.put(self._store, location, content)
            if bytes(obstore.get(self._store, location).bytes()) != content:
                raise StoreFailed(
                    f"{location} was not kept in {self} as it was put there; try again in a moment",
                    told=f"{location} was not kept in the artifact store as it was put there; try again in a moment",
                )
            if self._folder is not None:
                _synchronise(self._folder, location)

    def get(self, location: str) -> bytes:
        """Return the object that was put there.

        Raises:
            StoreDamaged: it is gone, or not what was put there.
            StoreFailed: the store cannot be read.
        """
        content = self.find(location)
        if content is None:
            raise StoreDamaged(
                f"{location} is not in {self}: {_HELP}", told=f"{location} is not in the artifact store: {_HELP}"
            )
        if hashlib.sha256(content).hexdigest() != location.rpartition("/")[2].partition("-")[0]:
            raise StoreDamaged(
                f"{location} in {self} is not what was put there: {_HELP}",
                told=f"{location} in the artifact store is not what was put there: {_HELP}",
            )
        return content

    def find(self, location: str) -> bytes | None:
        """Return the object as it is there, or None.

        Raises:
            StoreFailed: the store cannot be read.
        """
        with self._translate_errors(location, "get"):
            try:
                return bytes(obstore.get(self._store, location).bytes())
            except FileNotFoundError:
                return None

    def has(self, location: str) -> bool:
        """Return whether there is an object.

        Raises:
            StoreFailed: the store cannot be asked.
        """
        with self._translate_errors(location, "head"):
            try:
                obstore.head(self._store, location)
            except FileNotFoundError:
                return False
            return True

    def delete(self, locations: Sequence[str]) -> None:
        """Delete objects; some may be gone already.

        Raises:
            StoreFailed: one may be left.
        """
        for location in locations:
            with self._translate_errors(location, "delete"):
                try:
                    obstore.delete(self._store, location)
                except FileNotFoundError:
                    continue

    def locations(self, kind: str, *, before: datetime) -> Iterator[str]:
        """Yield the locations of all objects of a kind that were put there before that time.

        Raises:
            StoreFailed: they cannot be listed.
        """
        with self._translate_errors(kind, "list"):
            for portion in obstore.list(self._store, kind):
                yield from (one["path"] for one in portion if one["last_modified"] < before)

    @contextmanager
    def _translate_errors(self, what: str, call: str) -> Iterator[None]:
        """Raise errors of the object store, and of the system, as StoreFailed; report how long the call took."""
        started_s = perf_counter()
        try:
            yield
            self._recorder.record_artifact(call, perf_counter() - started_s)
        except (BaseError, OSError, ValueError) as error:
            raise StoreFailed(
                f"the artifact store {self} failed at {what}: {_first_line(error)}; try again",
                told=f"the artifact store failed at {what}; try again in a moment",
            ) from error


def _open(place: Path | str, *, make: bool) -> ObjectStore:
    if isinstance(place, Path):
        if make:
            make_folder(place)
        return LocalStore(place, mkdir=make)
    if not place.startswith(SCHEMES):
        raise ValueError("no such kind of store")
    return from_url(
        place,
        client_options={"allow_http": True, "timeout": _TIMEOUT, "connect_timeout": _TIMEOUT / 2},
        retry_config={"max_retries": _RETRIES, "retry_timeout": _TIMEOUT},
    )


def _synchronise(folder: Path, location: str) -> None:
    """Put the object, and each folder on the way to it, on the disk: object stores on a local disk do not."""
    path = folder / location
    for one in (path, *path.parents):
        file = os.open(one, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        if one == folder:
            return


def _first_line(error: Exception) -> str:
    """Return the first line of an error: the rest is about the library."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0]
