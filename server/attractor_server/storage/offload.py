"""Large images in the artifact store: put there before the row that names them, deleted after it."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from attractor_server.errors import StoreFailed
from attractor_server.memories.records import Change, StoredPage
from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.database import Cursor, Store, several

logger = logging.getLogger(__name__)

KIND = "images"

LARGE_BYTES = 256 << 10
"""Images of more bytes go to the artifact store, if there is one"""

SWEEP_LIMIT = 256
"""Objects that are deleted, or looked up, at a time"""

UNDER_WAY_S = 3600.0
"""No commit takes as long"""

_THREADS = 8


def offload_images(changes: Sequence[Change], artifacts: Artifacts | None) -> Sequence[Change]:
    """Put large images of the changes in the artifact store; return the changes with their locations.

    If they are not committed then, their objects belong to nobody; `attractor verify` names those.

    Raises:
        StoreFailed: one could not be put there.
    """
    large = [image for change in changes for image in change.images if len(image.content) > LARGE_BYTES]
    if artifacts is None or not large:
        return changes
    with ThreadPoolExecutor(min(_THREADS, len(large))) as threads:
        locations = list(threads.map(lambda image: artifacts.put(KIND, image.content), large))
    moved = {
        id(image): replace(image, content=b"", location=location)
        for image, location in zip(large, locations, strict=True)
    }
    return [
        replace(change, images=[moved.get(id(image), image) for image in change.images]) if change.images else change
        for change in changes
    ]


def load_image(page: StoredPage, artifacts: Artifacts | None) -> StoredPage:
    """Return the page with its image's weights, wherever they are.

    Raises:
        StoreDamaged: they are gone, or not what was put there.
        StoreFailed: their store cannot be read, or was not named.
    """
    if page.image is None or not page.image.location:
        return page
    if artifacts is None:
        raise StoreFailed(f"{page.image.location} is in an artifact store: name it to the server, by --artifact-store")
    return replace(page, image=replace(page.image, content=artifacts.get(page.image.location), location=""))


def sweep(store: Store, artifacts: Artifacts | None) -> None:
    """Delete objects that no image is in any more. What cannot be deleted now is tried again the next time."""
    if artifacts is None:
        return
    try:
        with store.read() as cursor:
            left = [location for (location,) in cursor.execute(_LEFT, (SWEEP_LIMIT,)).fetchall()]
        if left:
            artifacts.delete(left)
            with store.transaction(reserved=True) as cursor:
                cursor.executemany("DELETE FROM leavings WHERE location = ?", [(location,) for location in left])
    except StoreFailed as error:
        logger.warning("what was deleted is still in the artifact store: %s", error)


def find_orphans(cursor: Cursor, artifacts: Artifacts) -> Iterator[str]:
    """Yield locations of objects that were put there for a commit that failed; not of one that may be under way.

    Raises:
        StoreFailed: the artifact store cannot be listed.
    """
    locations = artifacts.locations(KIND, before=datetime.now(UTC) - timedelta(seconds=UNDER_WAY_S))
    while portion := list(islice(locations, SWEEP_LIMIT)):
        marks, values = several([(location,) for location in portion])
        known = {location for (location,) in cursor.execute(_KNOWN.format(marks, marks), [*values, *values]).fetchall()}
        yield from (location for location in portion if location not in known)


_KNOWN = (
    "SELECT location FROM images WHERE location IN (VALUES {}) "
    "UNION SELECT location FROM leavings WHERE location IN (VALUES {})"
)

_LEFT = (
    "SELECT location FROM leavings WHERE NOT EXISTS "
    "(SELECT 1 FROM images WHERE images.location = leavings.location) LIMIT ?"
)
