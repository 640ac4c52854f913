"""The command `attractor search`: items by the words of their texts."""

import json

import click

import attractor
from attractor_server.cli.items import read_where, where_option
from attractor_server.cli.options import connect, server_option


@click.command()
@click.argument("name")
@click.option("--words", required=True, help="Words that the items' texts have.")
@where_option
@click.option("-k", "size", type=click.IntRange(1, 1000), default=10, show_default=True, help="Show so many at most.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
@server_option
def search(name: str, words: str, where: str | None, size: int, as_json: bool, server: str) -> None:  # noqa: PLR0913
    """Find items of the memory NAME by words; of all whose names begin so where it ends in "/"."""
    with connect(server) as client:
        chosen = read_where(where)
        if name.endswith("/"):
            found = client.search(name, words=words, k=size, filter=chosen)
        else:
            found = client.memory(name).search(words=words, k=size, filter=chosen)
    if not as_json:
        click.echo("score\tmemory\tid\ttext")
    for hit in found.hits:
        click.echo(_format(hit, as_json=as_json))


def _format(hit: attractor.Hit, *, as_json: bool) -> str:
    if not as_json:
        return "\t".join([f"{hit.score:.3f}", hit.memory, hit.id or "-", " ".join(hit.text.split())])
    payload = {"bytes": hit.payload.hex()} if isinstance(hit.payload, bytes) else {"payload": hit.payload}
    told = {"memory": hit.memory, "id": hit.id, "score": hit.score, "text": hit.text, **payload}
    return json.dumps(told, ensure_ascii=False)
