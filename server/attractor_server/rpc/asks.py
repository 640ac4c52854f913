"""Frames of requests, whatever they ask for: taken apart, checked, and made again for another shard."""

from collections.abc import Sequence
from dataclasses import dataclass

from attractor_proto.v1 import memories_pb2
from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.engine.work import Operation
from attractor_server.errors import InvalidRequest
from attractor_server.rpc import codec
from attractor_server.rpc.checks import check_steps
from attractor_server.rpc.items import items_of
from attractor_server.storage.records import Item


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A frame of requests: their columns, and what is asked of all of them."""

    operation: Operation
    frame: pb.SessionRequest
    columns: pb.RequestColumns
    sequences: Sequence[int] = ()
    steps: int = 0
    trajectory: bool = False
    pull: bool = False
    match: bool = False
    items: Sequence[memories_pb2.Item] = ()

    @property
    def where(self) -> str:
        """Path of the columns in the frame."""
        return f"{self.operation.value}.columns"

    def rows(self, patterns_limit: int) -> list[slice]:
        """The rows of each request.

        Raises:
            InvalidRequest: the arrays disagree, or ask for too much.
        """
        rows = codec.check_columns(self.columns, where=self.where, patterns_limit=patterns_limit)
        if self.operation.writes and len(self.sequences) != len(rows):
            where = f"{self.operation.value}.sequences"
            raise InvalidRequest.of(where, f"saw {len(self.sequences)} entries; expected {len(rows)}")
        check_steps(self.steps, "query.steps")
        codec.check_form(self.columns.tensors, where=f"{self.where}.tensors", rows=rows[-1].stop)
        return rows

    def checked_items(self, patterns: int) -> Sequence[Item]:
        """One for each of so many patterns; empty where none carries anything.

        Raises:
            InvalidRequest: naming the item, the value seen and the value expected.
        """
        return items_of(self.items, patterns=patterns, where=f"{self.operation.value}.items")

    def part(self, rows: Sequence[slice], chosen: Sequence[int]) -> pb.SessionRequest:
        """A frame of the chosen requests alone: of all of them the frame as it came, nothing in it decoded.

        Items are cut as they are: `checked_items` comes first.
        """
        if len(chosen) == len(rows):
            return self.frame
        part = pb.SessionRequest()
        match self.operation:
            case Operation.STORE:
                part.store.sequences.extend([self.sequences[i] for i in chosen])
                if self.items:
                    part.store.items.extend([item for i in chosen for item in self.items[rows[i]]])
                codec.select(self.columns, rows, chosen, into=part.store.columns)
            case Operation.ERASE:
                part.erase.sequences.extend([self.sequences[i] for i in chosen])
                codec.select(self.columns, rows, chosen, into=part.erase.columns)
            case Operation.QUERY:
                part.query.steps, part.query.trajectory, part.query.pull_known = self.steps, self.trajectory, self.pull
                part.query.match = self.match
                codec.select(self.columns, rows, chosen, into=part.query.columns)
            case _:
                codec.select(self.columns, rows, chosen, into=part.recognize.columns)
        return part


def ask_of(frame: pb.SessionRequest) -> Ask:
    """What a frame of requests asks for."""
    match frame.WhichOneof("frame"):
        case "store":
            store = frame.store
            return Ask(
                operation=Operation.STORE,
                frame=frame,
                columns=store.columns,
                sequences=store.sequences,
                items=store.items,
            )
        case "erase":
            erase = frame.erase
            return Ask(operation=Operation.ERASE, frame=frame, columns=erase.columns, sequences=erase.sequences)
        case "query":
            query = frame.query
            return Ask(
                operation=Operation.QUERY,
                frame=frame,
                columns=query.columns,
                steps=query.steps,
                trajectory=query.trajectory,
                pull=query.pull_known,
                match=query.match,
            )
        case _:
            return Ask(operation=Operation.RECOGNIZE, frame=frame, columns=frame.recognize.columns)
