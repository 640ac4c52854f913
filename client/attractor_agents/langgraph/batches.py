"""Batches of operations."""

from collections.abc import Sequence

from langgraph.store.base import GetOp, ListNamespacesOp, Op, PutOp, Result, SearchOp

from attractor import AsyncClient
from attractor_agents.encoders import Floats
from attractor_agents.langgraph.reading import Reader
from attractor_agents.langgraph.texts import Index
from attractor_agents.langgraph.writing import write


async def run_batch(client: AsyncClient, root: str, index: Index | None, ops: Sequence[Op]) -> list[Result]:
    """Do operations, all that read before those that write, and return their results in order.

    Raises:
        TypeError: there is no such operation.
    """
    results: list[Result] = [None] * len(ops)
    queries = [op.query for op in ops if isinstance(op, SearchOp) and op.query]
    reader = Reader(client, root, {} if index is None else await index.embed_queries(queries))

    async def read(at: int, op: Op) -> None:
        if isinstance(op, GetOp):
            results[at] = await reader.get(op)
        elif isinstance(op, SearchOp):
            results[at] = await reader.search(op)
        elif isinstance(op, ListNamespacesOp):
            results[at] = await reader.list_namespaces(op)
        elif not isinstance(op, PutOp):
            raise TypeError(f"ops[{at}]: saw {type(op).__name__}; expected an operation of LangGraph")

    for at, op in enumerate(ops):
        await read(at, op)
    puts = [op for op in ops if isinstance(op, PutOp)]
    texts = {id(op): [] if index is None else index.texts_of(op) for op in puts}
    made = {} if index is None else await index.embed(text for given in texts.values() for text in given)

    def vectors_of(op: PutOp) -> Sequence[Floats]:
        return [made[text] for text in texts[id(op)]]

    await write(client, root, puts, vectors_of)
    return results
