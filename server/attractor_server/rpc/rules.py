"""Needs of each method: one table for all services, by full names. A method without a rule is served to nobody."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message

from attractor_server.identity.access import Access
from attractor_server.identity.grants import Role
from attractor_server.memories.names import check_name


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Needs of a method, where identities are named."""

    everybody: bool = False
    """Also callers who are nobody"""
    memories: Mapping[str, Role] = field(default_factory=dict)
    """Fields of the request with names of memories, and the role needed in each"""
    everywhere: Role = Role.NONE
    """The role needed in all memories"""
    streamed: bool = False
    """Names come one after another, and the servicer checks each"""
    logged: bool = False
    """Each call has a line in the audit log; the others are counted"""

    def check(self, access: Access, request: Message, what: str) -> None:
        """Refuse a request that the caller may not make; the same for a memory that is there and one that is not.

        Raises:
            NotAllowed: naming the field and the value seen.
            InvalidRequest: no memory can have that name.
        """
        for name, role in self.memories.items():
            memory = getattr(request, name)
            check_name(memory, field=name)
            access.check(memory, role, field=name)
        if self.everywhere:
            access.check_everywhere(self.everywhere, what)


_EVERYBODY: Final = Rule(everybody=True)
_ANYBODY: Final = Rule()
"""Whoever is somebody: what the answer has is the same for all, or only what the caller may read"""
_STREAMED: Final = Rule(streamed=True)


def _data(role: Role) -> Rule:
    """Return the rule of a call for what is in a memory."""
    return Rule(memories={"memory": role})


def _memory(role: Role, *, logged: bool = True, **others: Role) -> Rule:
    """Return the rule of a call for a memory as a whole, and others."""
    return Rule(memories={"name": role, **others}, logged=logged)


RULES: Final[Mapping[str, Rule]] = {
    "/attractor.v1.Memories/Create": _memory(Role.WRITE),
    "/attractor.v1.Memories/Get": _memory(Role.READ, logged=False),
    "/attractor.v1.Memories/List": _ANYBODY,  # `listing.py` leaves out what the caller may not read
    "/attractor.v1.Memories/Delete": _memory(Role.WRITE),
    "/attractor.v1.Memories/DeletePrefix": Rule(logged=True),  # it leaves what the caller may not delete
    "/attractor.v1.MemoryData/Session": _STREAMED,
    "/attractor.v1.MemoryData/Store": _data(Role.WRITE),
    "/attractor.v1.MemoryData/Query": _data(Role.READ),
    "/attractor.v1.MemoryData/Recognize": _data(Role.READ),
    "/attractor.v1.MemoryData/Erase": _data(Role.WRITE),
    "/attractor.v1.Items/Get": _memory(Role.READ, logged=False),
    "/attractor.v1.Items/List": _memory(Role.READ, logged=False),
    "/attractor.v1.Items/Count": _memory(Role.READ, logged=False),
    "/attractor.v1.Items/Erase": _memory(Role.WRITE),
    "/attractor.v1.Items/Put": _memory(Role.WRITE, logged=False),
    "/attractor.v1.Items/Touch": _memory(Role.WRITE, logged=False),
    "/attractor.v1.Search/Search": _memory(Role.READ, logged=False),
    "/attractor.v1.Search/SearchPrefix": _ANYBODY,  # `search.py` leaves out what the caller may not read
    "/attractor.v1.Copies/Fork": _memory(Role.READ, target=Role.WRITE),
    "/attractor.v1.Copies/TakeSnapshot": _memory(Role.WRITE),
    "/attractor.v1.Copies/ListSnapshots": _memory(Role.READ, logged=False),
    "/attractor.v1.Copies/ForgetSnapshot": _memory(Role.WRITE),
    "/attractor.v1.Copies/Restore": _memory(Role.WRITE),
    "/attractor.v1.Copies/Rebuild": _memory(Role.WRITE),
    "/attractor.v1.Copies/Export": _memory(Role.READ),
    "/attractor.v1.Copies/Import": Rule(streamed=True, logged=True),
    "/attractor.v1.Models/List": _ANYBODY,
    "/attractor.v1.Models/Get": _ANYBODY,
    "/attractor.v1.Cluster/GetTopology": _ANYBODY,
    "/attractor.v1.Cluster/Scale": Rule(everywhere=Role.ADMIN, logged=True),
    "/grpc.health.v1.Health/Check": _EVERYBODY,
    "/grpc.health.v1.Health/List": _EVERYBODY,
    "/grpc.health.v1.Health/Watch": _EVERYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANYBODY,
}
