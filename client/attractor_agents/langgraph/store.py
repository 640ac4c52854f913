"""The store: a memory for each namespace."""

from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

from anyio import to_thread
from langgraph.store.base import (
    BaseStore,
    IndexConfig,
    Op,
    Result,
    TTLConfig,
    validate_op_namespace,
)

import attractor
from attractor._loop_thread import LoopThread  # the same version, always
from attractor_agents.langgraph.batches import run_batch
from attractor_agents.langgraph.texts import Index

ROOT = "langgraph"


class AttractorStore(BaseStore):
    """LangGraph's long-term memory in a server of Attractor, for graphs with and without async.

    ```python
    with AttractorStore("localhost:7171", index={"embed": embeddings, "dims": 384, "fields": ["text"]}) as store:
        graph = builder.compile(store=store)
    ```

    Each namespace is a memory below `root`, so that namespaces may be forked, backed up and granted as memories are.
    `index` says what is searched by meaning, as for LangGraph's own stores; each text of a value is a pattern. `ttl`
    counts in minutes; the server erases what has expired, and nothing has to sweep. `options` are those of
    `attractor.connect`.
    """

    supports_ttl = True

    def __init__(
        self,
        address: str,
        *,
        root: str = ROOT,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        **options: Any,  # noqa: ANN401 - those of attractor.connect
    ) -> None:
        """Open nothing yet."""
        self.ttl_config = ttl
        self.index_config = index
        self._index = None if index is None else Index(index)
        self._root = root
        self._client = attractor.connect(address, **options)
        self._loop = LoopThread()

    def __enter__(self) -> Self:
        self._loop.open(self._client)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.close()

    async def __aenter__(self) -> Self:
        return await to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await to_thread.run_sync(self._loop.close)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations: all that read see the state before those that write, of which the last for a key counts."""
        given = list(ops)
        for op in given:
            validate_op_namespace(op)
        return self._loop.call(partial(run_batch, self._client, self._root, self._index, given))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations as `batch` does, from any event loop."""
        return await to_thread.run_sync(self.batch, list(ops))
