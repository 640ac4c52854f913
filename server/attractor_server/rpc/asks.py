"""Frames of requests, whatever they ask for: taken apart, checked, and made again for another shard."""

from collections.abc import Sequence
from dataclasses import dataclass

from attractor_proto.v1 import memory_data_pb2 as pb
from attractor_server.engine.work import Operation
from attractor_server.errors import InvalidRequest
from attractor_server.rpc import codec
from attractor_server.rpc.shard import check_steps


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A frame of requests: their columns, and what is asked of all of them."""

    operation: Operation
    columns: pb.RequestColumns
    sequences: Sequence[int] = ()
    steps: int = 0
    trajectory: bool = False
    pull: bool = False

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
        return rows

    def part(self, rows: Sequence[slice], chosen: Sequence[int]) -> pb.SessionRequest:
        """A frame of the chosen requests alone."""
        whole = len(chosen) == len(rows)
        columns = self.columns if whole else codec.select(self.columns, rows, chosen)
        match self.operation:
            case Operation.STORE:
                sequences = [self.sequences[i] for i in chosen]
                return pb.SessionRequest(store=pb.StoreFrame(columns=columns, sequences=sequences))
            case Operation.ERASE:
                sequences = [self.sequences[i] for i in chosen]
                return pb.SessionRequest(erase=pb.EraseFrame(columns=columns, sequences=sequences))
            case Operation.QUERY:
                query = pb.QueryFrame(
                    columns=columns, steps=self.steps, trajectory=self.trajectory, pull_known=self.pull
                )
                return pb.SessionRequest(query=query)
            case _:
                return pb.SessionRequest(recognize=pb.RecognizeFrame(columns=columns))


def ask_of(frame: pb.SessionRequest) -> Ask:
    """What a frame of requests asks for."""
    if frame.HasField("store"):
        return Ask(operation=Operation.STORE, columns=frame.store.columns, sequences=frame.store.sequences)
    if frame.HasField("erase"):
        return Ask(operation=Operation.ERASE, columns=frame.erase.columns, sequences=frame.erase.sequences)
    if frame.HasField("query"):
        query = frame.query
        return Ask(
            operation=Operation.QUERY,
            columns=query.columns,
            steps=query.steps,
            trajectory=query.trajectory,
            pull=query.pull_known,
        )
    return Ask(operation=Operation.RECOGNIZE, columns=frame.recognize.columns)
