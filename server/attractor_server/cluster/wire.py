"""Messages between the command, the supervisor and shards: dictionaries of plain values, with a version.

In a server that is brought to another version, these parts are of both for a while. So nothing of ours is pickled. A
reader passes over what it does not know, and takes the default for what it is not told: a field may come, and none may
change its meaning or go, but in a version of which the one before knows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from attractor_server.cluster.status import ShardStatus, SupervisorStatus
from attractor_server.errors import SettingsError
from attractor_server.shard.spec import ShardSpec, TLSFiles, Transport
from attractor_server.sharding.topology import ShardInfo, Topology
from attractor_server.storage.process import Incarnation

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VERSION: Final = 1

Message: TypeAlias = Mapping[str, Any]
"""Plain values by the names of fields, and the version under that name"""

_PATHS = ("models", "artifacts", "password_file", "log_file", "identities", "quotas", "audit_log")

_TLS_PATHS = ("certificate", "key", "client_ca", "ca")

_DRAWN = frozenset({"version", "secret"})
"""Values of a spec that nobody sets"""

_OWNER = np.dtype("<u2")
"""A server has at most 16,384 shards"""


def pack_spec(spec: ShardSpec) -> Message:
    """Return the message of a spec, which Ray may keep: without its password.

    And without a secret where shards share a store, and have one there.
    """
    message = _pack(spec, leave_out=("password", "transport", "tls", *(("secret",) if spec.store_uri else ())))
    _pack_paths(message, _PATHS)
    tls = None if spec.tls is None else _pack_paths(_pack(spec.tls), _TLS_PATHS)
    return {**message, "transport": _pack(spec.transport), "tls": tls}


def unpack_spec(message: Message) -> ShardSpec:
    """Return the spec of a message.

    Raises:
        SettingsError: it is of a version that this one does not know.
    """
    told = {"secret": "", **_unpack(message, ShardSpec)}
    _unpack_paths(told, _PATHS)
    if "transport" in told:
        told["transport"] = Transport(**_unpack(told["transport"], Transport))
    if told.get("tls") is not None:
        told["tls"] = TLSFiles(**_unpack_paths(_unpack(told["tls"], TLSFiles), _TLS_PATHS))
    return ShardSpec(**told)


def find_differences(one: Message, other: Message) -> list[str]:
    """Return the names of values that are not the same in both messages; one of them may lack some."""
    return sorted(name for name in one.keys() & other.keys() - _DRAWN if one[name] != other[name])


def check_tls(spec: ShardSpec, settings: Message) -> None:
    """Make sure that shards of these settings are not open where the spec has TLS.

    Raises:
        SettingsError: they are of a version that speaks none, and would pass over it.
    """
    if spec.tls is not None and "tls" not in settings:
        raise SettingsError(
            "tls_cert: the server in this Ray cluster is of a version that speaks no TLS; "
            "expected `attractor stop` before"
        )


def pack_status(status: ShardStatus) -> Message:
    """Return the message of a shard's status."""
    return {
        **_pack(status),
        "info": _pack(status.info),
        "process": str(status.process),
        "held": sorted(status.held),
    }


def unpack_status(message: Message) -> ShardStatus:
    """Return the status of a message. See `unpack_spec`."""
    told = _unpack(message, ShardStatus)
    told["info"] = ShardInfo(**_unpack(told["info"], ShardInfo))
    told["process"] = Incarnation.of(told["process"])
    return ShardStatus(**{**told, "held": frozenset(told["held"])})


def pack_supervisor_status(status: SupervisorStatus) -> Message:
    """Return the message of the supervisor's status."""
    return _pack(status)


def unpack_supervisor_status(message: Message) -> SupervisorStatus:
    """Return the status of a message. See `unpack_spec`."""
    return SupervisorStatus(**_unpack(message, SupervisorStatus))


def pack_topology(topology: Topology) -> Message:
    """Return the message of a topology: the owner of each slot in two bytes."""
    return {
        **_pack(topology, leave_out=("owners",)),
        "shards": [_pack(info) for info in topology.shards],
        "owners": topology.slot_owners.astype(_OWNER).tobytes(),
    }


def unpack_topology(message: Message) -> Topology:
    """Return the topology of a message. See `unpack_spec`."""
    told = _unpack(message, Topology)
    shards = tuple(ShardInfo(**_unpack(info, ShardInfo)) for info in told["shards"])
    owners = np.frombuffer(told["owners"], _OWNER).astype(np.int32)
    return Topology(**{**told, "shards": shards, "owners": owners})


def _pack_paths(message: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Replace paths among these values of a message by plain values."""
    for name in names:
        if isinstance(message[name], Path):
            message[name] = {"path": str(message[name])}
    return message


def _unpack_paths(told: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Replace plain values by the paths that they were."""
    for name in names:
        if isinstance(told.get(name), Mapping):
            told[name] = Path(told[name]["path"])
    return told


def _pack(record: "DataclassInstance", *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.name not in leave_out}
    return {"version": VERSION, **values}


def _unpack(message: Message, kind: "type[DataclassInstance]") -> dict[str, Any]:
    """Return the values of a message that are fields of a kind of record."""
    if not VERSION - 1 <= message["version"] <= VERSION + 1:
        raise SettingsError(
            f"ray_address: a part of the server speaks version {message['version']}, and this one {VERSION}; expected "
            "at most one between them: bring the server to the versions between, one by one"
        )
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in message.items() if name in known}
