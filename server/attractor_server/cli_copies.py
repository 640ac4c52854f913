"""The commands `attractor memory fork`, `snapshot`, `restore`, `export` and the like: copies of memories."""

from pathlib import Path

import click

from attractor_server.cli_connection import connected, server_option
from attractor_server.cli_memories import json_option, print_info

tag_option = click.option("--tag", help="As it was when this snapshot was taken.  [default: as it is now]")


@click.command()
@click.argument("name")
@click.argument("target")
@tag_option
@json_option
@server_option
def fork(name: str, target: str, tag: str | None, as_json: bool, server: str) -> None:
    """Make the memory TARGET with all that NAME has; what they share is stored once."""
    with connected(server) as client:
        print_info(client.memory(name).fork(target, tag=tag).info(), as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("tag")
@click.option("--forget", is_flag=True, help="Forget the snapshot of that tag instead.")
@server_option
def snapshot(name: str, tag: str, forget: bool, server: str) -> None:
    """Keep the memory NAME as it is now under TAG, until the memory is deleted."""
    with connected(server) as client:
        if forget:
            client.memory(name).forget_snapshot(tag)
            click.echo(f"{name} has no snapshot {tag} any more")
            return
        taken = client.memory(name).snapshot(tag)
    click.echo(f"{name} is kept as {tag}, at version {taken.version} with {taken.patterns} patterns")


@click.command()
@click.argument("name")
@server_option
def snapshots(name: str, server: str) -> None:
    """List the snapshots of the memory NAME, the oldest first."""
    with connected(server) as client:
        click.echo("tag\tversion\tpatterns\tcreated")
        for one in client.memory(name).snapshots():
            click.echo(f"{one.tag}\t{one.version}\t{one.patterns}\t{one.created.isoformat(timespec='seconds')}")


@click.command()
@click.argument("name")
@click.argument("tag")
@json_option
@server_option
def restore(name: str, tag: str, as_json: bool, server: str) -> None:
    """Make the memory NAME what it was when its snapshot TAG was taken."""
    with connected(server) as client:
        print_info(client.memory(name).restore(tag), as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@server_option
def export(name: str, file: Path, server: str) -> None:
    """Write the memory NAME, with its patterns and their payloads, to FILE, which `import` takes on any server."""
    with connected(server) as client:
        client.memory(name).export(file)
    click.echo(f"{name} is in {file}, {file.stat().st_size} bytes")


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Of the new memory.  [default: the name it had]")
@json_option
@server_option
def import_(file: Path, name: str | None, as_json: bool, server: str) -> None:
    """Make a memory of FILE, which `export` wrote."""
    with connected(server) as client:
        print_info(client.import_memory(file, name=name).info(), as_json=as_json)


@click.command()
@click.argument("names", nargs=-1, required=True)
@server_option
def rm(names: tuple[str, ...], server: str) -> None:
    """Forget the memories NAMES, with their snapshots."""
    with connected(server) as client:
        for name in names:
            client.delete_memory(name)
            click.echo(f"{name} is forgotten")


@click.command()
@click.argument("name")
@click.option("--model", help="Of another model with the same fields.  [default: the memory's own]")
@click.option("--page-patterns", type=click.IntRange(min=1), help="Patterns that one page takes from now on.")
@json_option
@server_option
def rebuild(name: str, model: str | None, page_patterns: int | None, as_json: bool, server: str) -> None:
    """Write the memory NAME anew from its patterns, into full pages."""
    with connected(server) as client:
        print_info(client.memory(name).rebuild(model=model, page_patterns=page_patterns), as_json=as_json)


COMMANDS = (fork, snapshot, snapshots, restore, export, import_, rm, rebuild)
