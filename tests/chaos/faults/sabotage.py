"""The promises broken on purpose: each of these is found only if the fault beside it goes red."""

from collections.abc import Sequence
from unittest.mock import patch

import apsw
from tests.chaos import hooks
from tests.chaos.faults.clients import client_forked
from tests.chaos.faults.damage import flipped_bit
from tests.chaos.faults.disks import power_cut, synced
from tests.chaos.faults.frames import frames
from tests.chaos.faults.images import torn_image
from tests.chaos.faults.zombie import zombie
from tests.chaos.tally import Inflict, NotPossible, Run, fault
from tests.support.shard_process import Hook

from attractor_server.storage.artifacts import Artifacts
from attractor_server.storage.backends import sqlite
from attractor_server.storage.tables import contents as content_rows

ATTEMPTS = 5


def _noticed(run: Run, checks: Sequence[tuple[Inflict, int]], *broken: Hook) -> None:
    """Runs the faults with that hook in every shard: each of them has to notice."""
    for number in range(run.times):
        for inflict, times in checks:
            name = inflict.__name__
            try:
                noticed = _problem(run, inflict, times, f"{name}-{number}", *broken)
            except NotPossible:
                continue
            if noticed:
                run.tally.found += 1
                run.tally.noticed.append(f"{name}: {noticed}")
            else:
                run.tally.blame(f"it went unnoticed by {name}")
        run.tally.times += 1


def _problem(run: Run, inflict: Inflict, times: int, folder: str, *broken: Hook) -> str:
    """What the fault blames first, in a few attempts; empty where it blames nothing."""
    for attempt in range(ATTEMPTS):
        worse = run.under(f"{folder}-{attempt}", *broken, times=times, seed=run.seed + attempt)
        try:
            inflict(worse)
        except ExceptionGroup:  # the shard ended: that it was broken can be seen, but not by this fault
            continue
        if worse.tally.red:
            return worse.tally.problems[0]
    return ""


@fault("sabotage-fsync", times=1, short=1)
def sabotage_fsync(run: Run) -> None:
    """`synchronous = OFF`."""
    _noticed(run, [(synced, 1), (power_cut, 1)], hooks.fsync_off)


@fault("sabotage-artifacts", times=1, short=1)
def sabotage_artifacts(run: Run) -> None:
    """Images in a folder are not synchronised."""
    _noticed(run, [(power_cut, 1)], hooks.artifacts_fsync_off)


@fault("sabotage-fence", times=1, short=1)
def sabotage_fence(run: Run) -> None:
    """No look at the epoch."""
    _noticed(run, [(zombie, 1)], hooks.fence_off)


@fault("sabotage-lease", times=1, short=1)
def sabotage_lease(run: Run) -> None:
    """A lease that never ends."""
    _noticed(run, [(zombie, 1)], hooks.lease_off)


@fault("sabotage-dedup", times=1, short=1)
def sabotage_dedup(run: Run) -> None:
    """A repeat is applied."""
    _noticed(run, [(frames, 5)], hooks.dedup_off)


@fault("sabotage-identity", times=1, short=1)
def sabotage_identity(run: Run) -> None:
    """All openings of a client have one identity."""
    _noticed(run, [(client_forked, 1)], hooks.identity_once)


@fault("sabotage-checksum", times=1, short=1)
def sabotage_checksum(run: Run) -> None:
    """Neither rows nor pages nor objects are checked."""
    with (
        patch.object(Artifacts, "get", lambda artifacts, location: artifacts.find(location) or b""),
        patch.object(content_rows, "_check", lambda *_: None),
        patch.object(sqlite, "connect", lambda path: apsw.Connection(str(path), vfs="unix")),
    ):
        _noticed(run, [(flipped_bit, 12), (torn_image, 6)])
