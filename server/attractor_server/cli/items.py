"""The commands `attractor memory items …`: what memories keep, by id and in lists."""

import json
from collections.abc import Sequence
from typing import Any

import click

import attractor
from attractor_server.cli.options import connect, server_option

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")

where_option = click.option(
    "--where",
    metavar="JSON",
    help='Conditions on payloads, as \'{"kind": "note", "user.age": {"$gte": 18}}\': values of paths, or $eq, $ne, '
    "$gt, $gte, $lt, $lte, $in, $exists, $contains.",
)


@click.group()
def items() -> None:
    """Tell what a memory keeps: its patterns' ids, payloads and times."""


@items.command()
@click.argument("name")
@where_option
@click.option("--newest-first", is_flag=True, help="Begin with what was stored last.")
@click.option("--limit", type=click.IntRange(min=1), help="List so many at most.")
@json_option
@server_option
def ls(name: str, where: str | None, newest_first: bool, limit: int | None, as_json: bool, server: str) -> None:  # noqa: PLR0913
    """List the items of the memory NAME in the order of storing."""
    with connect(server) as client:
        found = client.memory(name).items.list(where=read_where(where), newest_first=newest_first)
        _print_header(as_json=as_json)
        for number, item in enumerate(found):
            if number == limit:
                break
            _print(item, as_json=as_json)


@items.command()
@click.argument("name")
@click.argument("ids", nargs=-1, required=True)
@json_option
@server_option
def get(name: str, ids: Sequence[str], as_json: bool, server: str) -> None:
    """Tell of the items with these IDS in the memory NAME."""
    with connect(server) as client:
        found = client.memory(name).items.get(list(ids))
    _print_header(as_json=as_json)
    for item in found:
        _print(item, as_json=as_json)


@items.command()
@click.argument("name")
@where_option
@server_option
def count(name: str, where: str | None, server: str) -> None:
    """Count the items of the memory NAME."""
    with connect(server) as client:
        click.echo(client.memory(name).items.count(where=read_where(where)))


@items.command()
@click.argument("name")
@click.argument("ids", nargs=-1)
@where_option
@server_option
def rm(name: str, ids: Sequence[str], where: str | None, server: str) -> None:
    """Erase the items with these IDS, or those that the conditions hold for, from the memory NAME."""
    with connect(server) as client:
        result = client.memory(name).items.erase(list(ids) or None, where=read_where(where))
    click.echo(f"{name} is at version {result.version} with {result.total} patterns; {result.erased} items are erased")


@items.command()
@click.argument("name")
@click.argument("ids", nargs=-1, required=True)
@click.option("--ttl-s", type=click.FloatRange(min=0, min_open=True), help="Seconds from now.  [default: never]")
@server_option
def touch(name: str, ids: Sequence[str], ttl_s: float | None, server: str) -> None:
    """Have the items with these IDS erased from the memory NAME after a time, or never."""
    with connect(server) as client:
        click.echo(f"{client.memory(name).items.touch(list(ids), ttl_s=ttl_s)} items")


def read_where(where: str | None) -> dict[str, Any] | None:
    """Return the conditions of an option.

    Raises:
        BadParameter: they are no object of JSON.
    """
    if where is None:
        return None
    try:
        read = json.loads(where)
    except ValueError as error:
        raise click.BadParameter(f"saw {where!r}, which is no JSON ({error})", param_hint="--where") from None
    if not isinstance(read, dict):
        raise click.BadParameter(f"saw {where!r}; expected an object of JSON", param_hint="--where")
    return read


def _print_header(*, as_json: bool) -> None:
    if not as_json:
        click.echo("id\tcreated\tupdated\texpires\tpayload")


def _print(item: attractor.KeptItem, *, as_json: bool) -> None:
    times = {
        name: None if time is None else time.isoformat(timespec="milliseconds")
        for name, time in (("created", item.created), ("updated", item.updated), ("expires", item.expires))
    }
    is_bytes = isinstance(item.payload, bytes)
    if as_json:
        payload = {"bytes": item.payload.hex()} if is_bytes else {"payload": item.payload}
        click.echo(json.dumps({"id": item.id, "has_pattern": item.has_pattern, **times, **payload}, ensure_ascii=False))
        return
    shown = f"{len(item.payload)} bytes" if is_bytes else json.dumps(item.payload, ensure_ascii=False)
    click.echo("\t".join([item.id, *(time or "-" for time in times.values()), "-" if item.payload is None else shown]))
