"""Does the faults one after another: `python -m tests.chaos [--only FAULT] [--times N] [--short]`."""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import results
from tests.chaos.faults import (  # noqa: F401 - they are listed
    artifacts,
    changing_models,
    clients,
    crashing,
    damage,
    databases,
    disks,
    ending,
    frames,
    handing_over,
    heads,
    images,
    killing,
    moving,
    nodes,
    pausing,
    sabotage,
    zombie,
)
from tests.chaos.tally import FAULTS, Fault, NotPossible, Run, Tally
from tests.support.shards import load_once
from tests.support.tiny_models import write_models


def inflicted(fault: Fault, times: int, folder: Path, loop: asyncio.Runner, seed: int) -> Tally:
    """One fault, so many times; whatever goes wrong is in the tally."""
    models = folder / "models"
    if not models.exists():
        models.mkdir(parents=True)
        write_models(models)
    run = Run(times=times, folder=folder / fault.name, models=models, loop=loop, seed=seed)
    try:
        fault.inflict(run)
    except NotPossible as error:
        run.tally.not_possible = str(error)
    except Exception as error:
        run.tally.blame(f"{type(error).__name__}: {error}")
        traceback.print_exc()
    return run.tally


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", action="append", choices=FAULTS, metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--times", type=int, help="how often; without it, each as often as a full run asks for")
    parser.add_argument("--short", action="store_true", help="as the tests do it: few times, and nothing is kept")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    given = arguments(words)
    tallies: dict[str, Tally] = {}
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        asyncio.Runner() as loop,
        load_once(Path(folder) / "models"),
    ):
        for name in given.only or FAULTS:
            fault = FAULTS[name]
            times = given.times or (fault.short if given.short else fault.times)
            if not times:
                continue
            started_s = time.monotonic()
            tally = tallies[name] = inflicted(fault, times, Path(folder), loop, given.seed)
            state = "not possible here: " + tally.not_possible if tally.not_possible else str(tally.row())
            told(f"{name} {'RED' if tally.red else 'ok'} {time.monotonic() - started_s:.0f} s: {state}")
    rows = {name: {**tally.row()} for name, tally in tallies.items()}
    if not given.short:
        results.put_in(results.PAGE, results.kept(tallies, command=" ".join(["python -m tests.chaos", *words])))
    told(results.table(rows))
    return int(any(tally.red for tally in tallies.values()))


def told(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
