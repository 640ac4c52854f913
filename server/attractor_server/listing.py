"""Models as `attractor models` lists them."""

from collections.abc import Iterable, Mapping

from attractor_server.energy.model import Model

_HEAD = ("model", "fields", "network", "capacity", "kB a memory", "at capacity")


def table_of(models: Iterable[Model]) -> str:
    """A line for each model under a line of heads, in columns."""
    rows = [_HEAD, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(model: Model) -> tuple[str, ...]:
    fields = ", ".join(f"{field.name} {'×'.join(map(str, field.shape))}" for field in model.layout.fields)
    kilobytes = f"{model.page_bytes / 1000:,.1f}"
    return model.name, fields, model.network.kind, str(model.capacity), kilobytes, _rated(model.record)


def _rated(record: Mapping[str, object]) -> str:
    rated = record.get("rated")
    if not isinstance(rated, Mapping):
        return "not stated"
    return f"{str(rated['metric']).replace('_', ' ')} {rated['value']:.4g} ({rated['cue']})"
