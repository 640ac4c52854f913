"""Accounts of what namespaces keep, made in the transactions that change it, where a quota bounds it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from attractor_server.errors import QuotaExceeded
from attractor_server.identity.quotas import Quotas
from attractor_server.memories.names import namespace_of
from attractor_server.storage.database import Cursor
from attractor_server.storage.tables import usage as usage_rows
from attractor_server.storage.tables.usage import Usage

FRESH_S: Final = 1.0
"""Time in which what was last counted is good enough to refuse a store before it is computed"""

RECOUNT_S: Final = 60.0
"""A namespace is refused nothing by counts that are older than that: other servers may have changed it uncounted"""

_BOOKS_LIMIT: Final = 16_384
"""Namespaces that are remembered"""

Measure: TypeAlias = Callable[[Cursor], Mapping[str, Usage]]


@dataclass
class _Book:
    """Knowledge of this process of one namespace."""

    revision: int
    """Of the quotas, when all its memories were looked at"""
    counted_s: float
    usage: Usage
    seen_s: float
    """When the last transaction began that changed it, or was refused"""
    saved: bool
    """Whether the counters in the store go on from that look"""


@dataclass
class Pending:
    """Knowledge once the transaction is made."""

    books: dict[str, _Book] = field(default_factory=dict)


class Accounts:
    """Usage of namespaces that quotas bound. Thread-safe."""

    def __init__(self, claiming: str) -> None:
        """`claiming` ends a SELECT that locks its rows."""
        self.quotas = Quotas()
        self._claiming = claiming
        self._books: dict[str, _Book] = {}

    def measure_used(self) -> Mapping[tuple[str, str], float]:
        """Return the part of each quota that its namespace keeps, as far as this shard knows."""
        return {
            (namespace, kind): used / limit
            for namespace, book in list(self._books.items())
            for kind, used in book.usage._asdict().items()
            if (limit := getattr(self.quotas.of(namespace), kind))
        }

    def bounds(self, name: str) -> bool:
        """Return whether the namespace of that memory is bounded."""
        return self.quotas.of(namespace_of(name)).bounds_kept

    @contextmanager
    def follow(self, cursor: Cursor, names: Sequence[str], measure: Measure) -> Iterator[Pending]:
        """Count what the block changes, which `measure` tells before and after, in the namespaces of these memories.

        Raises:
            QuotaExceeded: it would be more than the namespace may have.
        """
        pending = Pending()
        namespaces = sorted({namespace_of(name) for name in names if self.bounds(name)})
        if not namespaces:
            yield pending
            return
        books = {one: self._open(cursor, one, usage) for one, usage in self._load(cursor, namespaces).items()}
        before = measure(cursor)
        yield pending
        after = measure(cursor)
        for namespace, book in books.items():
            change = after.get(namespace, Usage()).plus(before.get(namespace, Usage()), -1)
            self._settle(cursor, namespace, book, change)
        usage_rows.save(cursor, {one: book.usage for one, book in books.items()})
        pending.books = books

    def learn(self, pending: Pending) -> None:
        """Take note of a transaction that was made."""
        for namespace, book in pending.books.items():
            book.saved = True
            self._remember(namespace, book)

    def is_unsaved(self, namespace: str) -> bool:
        """Return whether a look at all memories of that namespace was lost with the transaction that it refused."""
        book = self._books.get(namespace)
        return book is not None and not book.saved

    def count(self, cursor: Cursor, namespace: str) -> Pending:
        """Look at all memories of a namespace, and have its counters go on from that."""
        now_s, revision = time.monotonic(), self.quotas.revision
        self._load(cursor, [namespace])
        book = _Book(revision, now_s, usage_rows.measure_all(cursor, namespace), now_s, saved=False)
        usage_rows.save(cursor, {namespace: book.usage})
        return Pending({namespace: book})

    def expect(self, cursor: Cursor, name: str, change: Usage) -> None:
        """Refuse early what would be more than the namespace of that memory may have.

        Raises:
            QuotaExceeded: so it is.
        """
        if self.bounds(name):
            ((namespace, usage),) = self._load(cursor, [namespace_of(name)]).items()
            self._check(namespace, self._open(cursor, namespace, usage).usage, change)

    def may_have_room(self, name: str, change: Usage) -> bool:
        """Return whether so much more is within the quotas, by what was last counted."""
        if not self.bounds(name) or (book := self._books.get(namespace_of(name))) is None:
            return True
        return self._find_excess(namespace_of(name), book.usage, change) is None

    def check_known(self, name: str, *, items: int, size_bytes: int) -> None:
        """Refuse to store so many items, of at least so many bytes, where the namespace was full a moment ago.

        Raises:
            QuotaExceeded: so it was.
        """
        if not self.bounds(name):
            return
        namespace = namespace_of(name)
        book = self._books.get(namespace)
        if book is None or book.revision != self.quotas.revision:
            return
        if time.monotonic() < book.seen_s + FRESH_S:
            self._check(namespace, book.usage, Usage(items=items, bytes=size_bytes))

    def _load(self, cursor: Cursor, namespaces: Sequence[str]) -> Mapping[str, Usage | None]:
        return usage_rows.load(cursor, namespaces, self._claiming)

    def _open(self, cursor: Cursor, namespace: str, usage: Usage | None) -> _Book:
        """Return the book of a namespace, counted anew where it may have been changed uncounted."""
        now_s, revision = time.monotonic(), self.quotas.revision
        known = self._books.get(namespace)
        if usage is None or known is None or known.revision != revision or not known.saved:
            return _Book(revision, now_s, usage_rows.measure_all(cursor, namespace), now_s, saved=False)
        return _Book(revision, known.counted_s, usage, now_s, saved=True)

    def _settle(self, cursor: Cursor, namespace: str, book: _Book, change: Usage) -> None:
        """Enter a change in the book, unless it is too much."""
        try:
            self._check(namespace, book.usage, change)
        except QuotaExceeded:
            self._remember(namespace, book)
            if book.seen_s - book.counted_s <= RECOUNT_S:
                raise
            book.usage, book.counted_s = usage_rows.measure_all(cursor, namespace).plus(change, -1), book.seen_s
            book.saved = False
            self._check(namespace, book.usage, change)
        book.usage = book.usage.plus(change)

    def _remember(self, namespace: str, book: _Book) -> None:
        if len(self._books) >= _BOOKS_LIMIT:
            self._books = {}
        self._books[namespace] = book

    def _check(self, namespace: str, usage: Usage, change: Usage) -> None:
        if (excess := self._find_excess(namespace, usage, change)) is not None:
            self.quotas.on_limit(namespace)
            raise excess

    def _find_excess(self, namespace: str, usage: Usage, change: Usage) -> QuotaExceeded | None:
        """Return the error of what would be too much; None where it would not."""
        quota = self.quotas.of(namespace)
        for kind, more in change._asdict().items():
            limit, used = getattr(quota, kind), getattr(usage, kind)
            if more > 0 and limit is not None and used + more > limit:
                return QuotaExceeded(namespace, kind, used, limit, more=more)
        return None
