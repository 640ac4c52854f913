"""Transactions that change memories: of the shard that owns these, and counted where a quota bounds what is kept."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from attractor_server.errors import QuotaExceeded, StoreFailed
from attractor_server.recorder import Recorder
from attractor_server.storage.accounts import Accounts, Measure
from attractor_server.storage.claims import Claims
from attractor_server.storage.database import Cursor, Store
from attractor_server.storage.tables import memories as memory_rows
from attractor_server.storage.tables import usage as usage_rows


class Changes:
    """Runs transactions of one shard. Thread-safe."""

    def __init__(self, store: Store, ownership: Claims, accounts: Accounts, recorder: Recorder) -> None:
        self._store = store
        self._ownership = ownership
        self._accounts = accounts
        self._recorder = recorder

    @contextmanager
    def run(  # noqa: PLR0913 - whose memories it changes, and how much of them
        self,
        *,
        names: Sequence[str] = (),
        memories: Sequence[int] = (),
        made: str = "",
        pages: Collection[tuple[int, int]] | None = None,
        counted: bool = True,
        reserved: bool = False,
    ) -> Iterator[Cursor]:
        """Run a transaction of the shard that owns the memories with these names, and those with these ids.

        One of the name `made` may be made, of any shard. Unless it is not to be `counted`, what their namespaces keep
        is, by a look at the memories, or only at their `pages`, where no others change.

        Raises:
            OwnerChanged: one of the memories is another shard's.
            QuotaExceeded: it would be more than a namespace may have.
        """
        try:
            with self._store.transaction(reserved=reserved) as cursor:
                named = memory_rows.names_of(cursor, memories)
                self._ownership.check(cursor, [*names, *named.values()])
                told = [*names, *([made] if made else ()), *named.values()] if counted else []
                with self._accounts.follow(cursor, told, self._measure(named, told, pages)) as pending:
                    yield cursor
            self._accounts.learn(pending)
        except QuotaExceeded as error:
            self._save_count(error.namespace)
            raise
        except StoreFailed:
            self._recorder.record_store_failure()
            raise

    def _save_count(self, namespace: str) -> None:
        """Count what a namespace keeps, once, where the transaction that did so was refused."""
        if self._accounts.is_unsaved(namespace):
            with suppress(StoreFailed):
                with self._store.transaction() as cursor:
                    counted = self._accounts.count(cursor, namespace)
                self._accounts.learn(counted)

    def _measure(
        self, named: Mapping[int, str], names: Sequence[str], pages: Collection[tuple[int, int]] | None
    ) -> Measure:
        """Return a measure of what of these memories, or of their pages, is in namespaces that are bounded."""
        if pages is None:
            bounded = [name for name in dict.fromkeys(names) if self._accounts.bounds(name)]
            ids = [memory for memory, name in named.items() if self._accounts.bounds(name)]
            return lambda cursor: usage_rows.measure(cursor, ids, bounded)
        places = [place for place in pages if self._accounts.bounds(named.get(place[0], ""))]
        return lambda cursor: usage_rows.measure_pages(cursor, places)
