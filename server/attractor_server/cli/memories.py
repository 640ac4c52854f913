"""The commands `attractor memory create`, `show`, `ls`, `fork`, `snapshot` and the like."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

import attractor
from attractor_server.cli.options import connect, server_option

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")


@click.command()
@click.argument("name")
@click.option("--model", required=True, help="The model to make it from: `attractor models` lists them.")
@click.option(
    "--write",
    type=click.Choice(get_args(attractor.WriteMode)),
    help="rewrite: each store writes the page anew, with all its patterns; stream: it adds to what is written.  "
    "[default: rewrite]",
)
@click.option(
    "--when-full",
    type=click.Choice(get_args(attractor.WhenFull)),
    help="What a store meets that the page has no room for: another page (grow), an error (refuse), or another page "
    "for which the oldest one is forgotten (forget).  [default: grow]",
)
@click.option(
    "--page-patterns", type=click.IntRange(min=1), help="Patterns that one page takes.  [default: the model's capacity]"
)
@click.option(
    "--retain",
    type=click.Choice(get_args(attractor.Retain)),
    help="Which patterns the server keeps of what was stored: all, or those of the page that is being filled.  "
    "[default: all]",
)
@click.option(
    "--metric",
    type=click.Choice(get_args(attractor.Metric)),
    help="How vectors are told apart: each page by those that it keeps (own), or as in the model's training data "
    "(model).  [default: own, if the model can]",
)
@click.option(
    "--recall",
    type=click.Choice(get_args(attractor.RecallBy)),
    help="What answers: the network and the kept patterns, weighed by one another (posterior), or the network alone.  "
    "[default: the server's]",
)
@click.option(
    "--ttl-s",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after the last write when the memory is forgotten.  [default: never]",
)
@json_option
@server_option
def create(  # noqa: PLR0913
    name: str,
    model: str,
    write: attractor.WriteMode | None,
    when_full: attractor.WhenFull | None,
    page_patterns: int | None,
    retain: attractor.Retain | None,
    metric: attractor.Metric | None,
    recall: attractor.RecallBy | None,
    ttl_s: float | None,
    as_json: bool,
    server: str,
) -> None:
    """Make the memory NAME, if there is none; one that is there has to be of that model and have the settings given."""
    with connect(server) as client:
        made = client.create_memory(
            name,
            model=model,
            write=write,
            when_full=when_full,
            page_patterns=page_patterns,
            retain=retain,
            metric=metric,
            recall=recall,
            ttl_s=ttl_s,
        )
        print_info(made.info(), as_json=as_json)


@click.command()
@click.argument("name")
@json_option
@server_option
def show(name: str, as_json: bool, server: str) -> None:
    """Tell what the server knows of the memory NAME."""
    with connect(server) as client:
        info = client.memory(name).info()
        print_info(info, as_json=as_json)
        if not as_json and could_have_metric(info, client.models()):
            click.echo(f"Vectors that are alike are told apart after `attractor memory rebuild {name} --metric own`.")


def could_have_metric(info: attractor.MemoryInfo, models: Sequence[attractor.ModelInfo]) -> bool:
    """Return whether the memory sees vectors as its model does, and could see them in their own metric."""
    able = {model.name for model in models if model.has_metric}
    return info.model in able and info.settings.metric == "model" and info.settings.write == "rewrite"


@click.command()
@click.argument("prefix", default="")
@json_option
@server_option
def ls(prefix: str, as_json: bool, server: str) -> None:
    """List the memories whose names begin with PREFIX, or all, in the order of names."""
    with connect(server) as client:
        for number, info in enumerate(client.memories(prefix)):
            shown = _describe(info)
            if number == 0 and not as_json:
                click.echo("\t".join(shown))
            click.echo(_json(info) if as_json else "\t".join(shown.values()))


def print_info(info: attractor.MemoryInfo, *, as_json: bool) -> None:
    """Print a line for each thing there is to tell, or one line of JSON."""
    if as_json:
        click.echo(_json(info))
        return
    shown = {
        **_describe(info),
        "model_digest": info.model_digest,
        "created": info.created.isoformat(timespec="seconds"),
    }
    for name, value in shown.items():
        click.echo(f"{name:<13} {value}")


def _describe(info: attractor.MemoryInfo) -> dict[str, str]:
    return {
        "name": info.name,
        "model": info.model,
        "patterns": str(info.patterns),
        "pages": str(info.pages),
        "version": str(info.version),
        "write": info.settings.write,
        "when_full": info.settings.when_full,
        "page_patterns": str(info.settings.page_patterns),
        "retain": info.settings.retain,
        "metric": info.settings.metric,
        "recall": info.settings.recall,
        "ttl_s": "never" if info.settings.ttl_s is None else f"{info.settings.ttl_s:g}",
    }


def _json(info: attractor.MemoryInfo) -> str:
    times = {"created": info.created.isoformat(), "expires": info.expires and info.expires.isoformat()}
    return json.dumps({**asdict(info), **times})


tag_option = click.option("--tag", help="As it was when this snapshot was taken.  [default: as it is now]")


@click.command()
@click.argument("name")
@click.argument("target")
@tag_option
@json_option
@server_option
def fork(name: str, target: str, tag: str | None, as_json: bool, server: str) -> None:
    """Make the memory TARGET with all that NAME has; what they share is stored once."""
    with connect(server) as client:
        print_info(client.memory(name).fork(target, tag=tag).info(), as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("tag")
@click.option("--forget", is_flag=True, help="Forget the snapshot of that tag instead.")
@server_option
def snapshot(name: str, tag: str, forget: bool, server: str) -> None:
    """Keep the memory NAME as it is now under TAG, until the memory is deleted."""
    with connect(server) as client:
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
    with connect(server) as client:
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
    with connect(server) as client:
        print_info(client.memory(name).restore(tag), as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@server_option
def export(name: str, file: Path, server: str) -> None:
    """Write the memory NAME, with its patterns and their payloads, to FILE, which `import` takes on any server."""
    with connect(server) as client:
        client.memory(name).export(file)
    click.echo(f"{name} is in {file}, {file.stat().st_size} bytes")


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Of the new memory.  [default: the name it had]")
@json_option
@server_option
def import_(file: Path, name: str | None, as_json: bool, server: str) -> None:
    """Make a memory of FILE, which `export` wrote."""
    with connect(server) as client:
        print_info(client.import_memory(file, name=name).info(), as_json=as_json)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--prefix", help="Forget all memories whose names begin so.")
@server_option
def rm(names: tuple[str, ...], prefix: str | None, server: str) -> None:
    """Forget the memories NAMES, with their snapshots."""
    if not names and not prefix:
        raise click.UsageError("saw neither names nor --prefix; expected some")
    with connect(server) as client:
        if prefix:
            click.echo(f"{client.delete_memories(prefix)} memories are forgotten")
        for name in names:
            client.delete_memory(name)
            click.echo(f"{name} is forgotten")


@click.command()
@click.argument("name")
@click.option("--model", help="Of another model with the same fields.  [default: the memory's own]")
@click.option("--page-patterns", type=click.IntRange(min=1), help="Patterns that one page takes from now on.")
@click.option("--metric", type=click.Choice(get_args(attractor.Metric)), help="How vectors are told apart from now on.")
@json_option
@server_option
def rebuild(  # noqa: PLR0913
    name: str,
    model: str | None,
    page_patterns: int | None,
    metric: attractor.Metric | None,
    as_json: bool,
    server: str,
) -> None:
    """Write the memory NAME anew from its patterns, into full pages."""
    with connect(server) as client:
        rebuilt = client.memory(name).rebuild(model=model, page_patterns=page_patterns, metric=metric)
        print_info(rebuilt, as_json=as_json)


COMMANDS = (fork, snapshot, snapshots, restore, export, import_, rm, rebuild)
