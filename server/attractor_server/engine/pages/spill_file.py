"""Pages on disk: one flat file of records of one size, where pages wait for which a bank has no room.

A record is a header, the page's weights, then its patterns. What a page needs beyond one record goes into the records
behind it. The file has holes where records are not full. It is no durable store: nothing is synchronised, and whoever
starts again starts with an empty file.
"""

import logging
import os
import struct
import tempfile
import weakref
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attractor_server.errors import StoreDamaged, StoreFailed
from attractor_server.files import make_folder

logger = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float32]

_HEADER = struct.Struct("<qqqI")
"""Page, rows and columns of its patterns (columns 0: it keeps none), checksum of the record up to its end"""

_VALUE_BYTES = 4


class _Extent(NamedTuple):
    """Records one behind the other, by the number of the first."""

    start: int
    records: int
    used_bytes: int
    """From its beginning, by the longest that was saved there"""


class PageFile:
    """Not thread-safe. Takes no space before the first page; what is dropped makes room for what comes."""

    def __init__(self, path: Path | None = None, *, image_bytes: int, kept_values: int = 0) -> None:
        """Size a record to take weights of `image_bytes` bytes and `kept_values` values of patterns.

        Without a path the file has no name, in the system's folder for temporary ones; what is at the path is replaced.
        Either ends with this object, or at the latest with the process.
        """
        self._path = path
        self._record_bytes = _HEADER.size + image_bytes + kept_values * _VALUE_BYTES
        self._extents: dict[int, _Extent] = {}
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._end = 0
        self._file: int | None = None
        self._closing: weakref.finalize[..., PageFile] | None = None

    def save(self, page: int, image: Sequence[memoryview], kept: Floats | None) -> None:
        """Write the page over what was saved of it before.

        Raises:
            StoreFailed: the disk did not take it; what was saved before may be lost.
        """
        patterns = np.empty((0, 0), np.float32) if kept is None else np.ascontiguousarray(kept)
        content = [*image, _bytes_of(patterns)]
        rows, columns = patterns.shape
        header = memoryview(_HEADER.pack(page, rows, columns, _checksum(page, rows, columns, content)))
        length = sum(part.nbytes for part in (header, *content))
        extent = self._room(page, length)
        try:
            written = os.pwritev(self._open_file(), [header, *content], extent.start * self._record_bytes)
        except OSError as error:
            raise self._report_failure(page, str(error)) from error
        if written < length:
            raise self._report_failure(page, f"it took {written} of {length} bytes")

    def load(self, page: int, image: Sequence[memoryview]) -> Floats | None:
        """Fill `image` with the weights as they were saved; return the patterns.

        Raises:
            StoreFailed: the disk cannot be read.
            StoreDamaged: what is there is not what was saved.
        """
        extent, header = self._extents[page], memoryview(bytearray(_HEADER.size))
        start = extent.start * self._record_bytes
        read = self._read(page, [header, *image], start)
        seen, rows, columns, checksum = _HEADER.unpack(header)
        room = extent.records * self._record_bytes - read
        if seen != page or min(rows, columns) < 0 or rows * columns * _VALUE_BYTES > room:
            raise self._report_damage(page, extent, f"its header names page {seen} with {rows} × {columns} values")
        patterns = np.empty((rows, columns), np.float32)
        self._read(page, [_bytes_of(patterns)], start + read)
        if (found := _checksum(page, rows, columns, [*image, _bytes_of(patterns)])) != checksum:
            raise self._report_damage(
                page, extent, f"its content has checksum {found:08x}, its header says {checksum:08x}"
            )
        return patterns if columns else None

    def drop(self, page: int) -> None:
        """Forget the page, if there is one: its bytes are overwritten, and its records free."""
        if (extent := self._extents.pop(page, None)) is None:
            return
        self._free[extent.records].append(extent.start)
        try:
            os.pwrite(self._open_file(), bytes(extent.used_bytes), extent.start * self._record_bytes)
        except OSError as error:
            logger.warning("what was deleted could not be overwritten in %s: %s", self, error)

    def close(self) -> None:
        """Close the file, with all that is in it, and remove it."""
        if self._closing is not None:
            self._closing()
            self._file = self._closing = None

    @property
    def size_bytes(self) -> int:
        """Where the file ends; its holes take no space."""
        return self._end * self._record_bytes

    def __str__(self) -> str:
        return "the page file, which has no name," if self._path is None else f"page file {self._path}"

    def _open_file(self) -> int:
        """Return the file, made when it is first needed."""
        if self._file is None:
            if self._path is None:
                self._file, name = tempfile.mkstemp(prefix="attractor-", suffix=".pages")
                Path(name).unlink()
            else:
                make_folder(self._path.parent)
                self._path.unlink(missing_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self._closing = weakref.finalize(self, _close_file, self._file, self._path)
        return self._file

    def _room(self, page: int, length: int) -> _Extent:
        """Return the place for that many bytes of the page: its old one if that suffices."""
        records, before = -(-length // self._record_bytes), self._extents.get(page)
        if before is not None and before.records >= records:
            extent = before._replace(used_bytes=max(length, before.used_bytes))
        else:
            self.drop(page)
            extent = _Extent(self._start(records), records, length)
        self._extents[page] = extent
        return extent

    def _start(self, records: int) -> int:
        """Return an extent of so many records that are free, or at the end of the file."""
        if free := self._free[records]:
            return free.pop()
        self._end += records
        return self._end - records

    def _read(self, page: int, parts: Sequence[memoryview], start: int) -> int:
        """Fill the parts from there on; return the bytes read."""
        length = sum(part.nbytes for part in parts)
        try:
            read = os.preadv(self._open_file(), list(parts), start)
        except OSError as error:
            raise StoreFailed(
                f"page {page} cannot be read from {self}: {error}",
                told=f"page {page} cannot be read from the page file; try again in a moment",
            ) from error
        if read < length:
            raise self._report_damage(page, self._extents[page], f"it ends {length - read} bytes early")
        return read

    def _report_failure(self, page: int, cause: str) -> StoreFailed:
        """Return the error to raise. The page's records are free, and come after those that the disk has taken."""
        extent = self._extents.pop(page)
        self._free[extent.records].insert(0, extent.start)
        return StoreFailed(
            f"page {page} could not leave the bank, {self} did not take it: {cause}; make room on its disk",
            told=f"page {page} could not leave the bank: the disk of the page file did not take it",
        )

    def _report_damage(self, page: int, extent: _Extent, how: str) -> StoreDamaged:
        at = f"at byte {extent.start * self._record_bytes}: {how}"
        return StoreDamaged(
            f"page {page} is damaged, in {self} {at}", told=f"page {page} is damaged, in the page file {at}"
        )


def _checksum(page: int, rows: int, columns: int, content: Sequence[memoryview]) -> int:
    checksum = zlib.crc32(_HEADER.pack(page, rows, columns, 0))
    for part in content:
        checksum = zlib.crc32(part, checksum)
    return checksum


def _bytes_of(patterns: Floats) -> memoryview:
    """Return their memory."""
    return patterns.reshape(-1).view(np.uint8).data


def _close_file(file: int, path: Path | None) -> None:
    os.close(file)
    if path is not None:
        path.unlink(missing_ok=True)
