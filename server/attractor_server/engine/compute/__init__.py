"""Programs that the engine runs over batches of pages: the one place where the fastest way through a loop is chosen.

Networks with a closed form of their own here (`registry.py`) take it. Any other goes through `energy` as it stands
there, and so does a reading of which every iterate is asked for.
"""

from attractor_server.engine.compute.dispatch import (
    can_read_in_place,
    compute_energies,
    find_frames,
    read_in_place,
    read_pages,
    recognize_in_place,
    recognize_pages,
    write_pages,
)
from attractor_server.engine.compute.kept import Pairs, pair

__all__ = [
    "Pairs",
    "can_read_in_place",
    "compute_energies",
    "find_frames",
    "pair",
    "read_in_place",
    "read_pages",
    "recognize_in_place",
    "recognize_pages",
    "write_pages",
]
