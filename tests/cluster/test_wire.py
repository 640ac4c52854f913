"""Messages between command, supervisor and shards, from one version of the server to the next."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from tests.support.first_messages import SPEC, STATUS, SUPERVISOR_STATUS, TOPOLOGY

from attractor_server.cluster.status import ShardStatus, SupervisorStatus
from attractor_server.cluster.wire import (
    VERSION,
    check_tls,
    pack_spec,
    pack_status,
    pack_supervisor_status,
    pack_topology,
    unpack_spec,
    unpack_status,
    unpack_supervisor_status,
    unpack_topology,
)
from attractor_server.errors import SettingsError
from attractor_server.shard.spec import ShardSpec, TLSFiles
from attractor_server.sharding.topology import Topology

Message = dict[str, Any]
KINDS: list[tuple[Message, Callable[[Any], Any], Callable[[Any], Any], type]] = [
    (SPEC, unpack_spec, pack_spec, ShardSpec),
    (STATUS, unpack_status, pack_status, ShardStatus),
    (SUPERVISOR_STATUS, unpack_supervisor_status, pack_supervisor_status, SupervisorStatus),
    (TOPOLOGY, unpack_topology, pack_topology, Topology),
]
each_kind = pytest.mark.parametrize(
    ("first", "unpack", "pack", "kind"), KINDS, ids=[kind[3].__name__ for kind in KINDS]
)


def values(message: object) -> object:
    """A message without its versions."""
    match message:
        case dict():
            return {name: values(value) for name, value in message.items() if name != "version"}
        case list() | tuple():
            return [values(value) for value in message]
        case _:
            return message


@each_kind
def test_a_message_of_the_first_version_says_the_same_to_this_one(
    first: Message, unpack: Callable[[Any], Any], pack: Callable[[Any], Any], kind: type
) -> None:
    again = pack(unpack(first))
    assert values({name: again[name] for name in first}) == values(first)


@each_kind
def test_what_only_a_later_version_knows_is_passed_over(
    first: Message, unpack: Callable[[Any], Any], pack: Callable[[Any], Any], kind: type
) -> None:
    later = {**first, "version": VERSION + 1, "colour": "red"}
    assert values(pack(unpack(later))) == values(pack(unpack(first)))


@each_kind
def test_what_an_earlier_version_does_not_say_has_a_default(
    first: Message, unpack: Callable[[Any], Any], pack: Callable[[Any], Any], kind: type
) -> None:
    added = [field for field in fields(kind) if field.name not in {*first, "password"}]
    assert all(field.default is not MISSING or field.default_factory is not MISSING for field in added)


@each_kind
def test_a_version_that_is_further_away_is_refused(
    first: Message, unpack: Callable[[Any], Any], pack: Callable[[Any], Any], kind: type
) -> None:
    with pytest.raises(SettingsError, match=f"speaks version {VERSION + 2}, and this one {VERSION}"):
        unpack({**first, "version": VERSION + 2})


@each_kind
def test_messages_are_of_plain_values(
    first: Message, unpack: Callable[[Any], Any], pack: Callable[[Any], Any], kind: type
) -> None:
    def check(value: object) -> None:
        assert isinstance(value, dict | list | tuple | str | int | float | bytes | None), value
        for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(pack(unpack(first)))


def test_a_password_is_in_no_message() -> None:
    spec = ShardSpec(store_uri="postgresql://?user=a", password="Gqx9Zt7k", models=Path("/models"))
    assert "Gqx9Zt7k" not in repr(pack_spec(spec))
    assert unpack_spec(pack_spec(spec)).models == Path("/models")


def test_of_tls_a_message_has_the_paths_alone(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("Gqx9Zt7k")
    tls = TLSFiles(certificate=tmp_path / "certificate.pem", key=key, ca=tmp_path / "ca.pem", optional=True)
    message = pack_spec(ShardSpec(tls=tls))
    assert unpack_spec(message).tls == tls
    assert "Gqx9Zt7k" not in repr(message)


def test_shards_of_a_version_without_tls_are_not_taken_over_by_a_command_with_it(tmp_path: Path) -> None:
    secure = ShardSpec(tls=TLSFiles(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem"))
    with pytest.raises(SettingsError, match=r"^tls_cert: .* speaks no TLS; expected `attractor stop` before"):
        check_tls(secure, SPEC)
    check_tls(ShardSpec(), SPEC)
    check_tls(secure, pack_spec(ShardSpec()))  # its settings differ, which is told as for any other
