"""The programs that the engine runs over batches of pages: one place where the fastest way through a loop is chosen.

Networks with a closed form of their own here (`forms.py`) take it; any other goes through `energy` as it stands there,
and so does a reading of which every iterate is asked for.
"""

from attractor_server.engine.compute.dispatch import (
    energies,
    reading,
    reading_at,
    reads_in_place,
    recognizing,
    recognizing_at,
    writing,
)

__all__ = ["energies", "reading", "reading_at", "reads_in_place", "recognizing", "recognizing_at", "writing"]
