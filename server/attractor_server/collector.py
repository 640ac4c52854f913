"""Python's garbage collector in a process that serves."""

import gc


def spare_the_loaded() -> None:
    """Never looks again at what there is now: torch and Ray alone are 200,000 objects, which stay for good.

    A full look at them took 0.12 s on a quiet machine, 0.45 s on a busy one, and nobody was answered meanwhile.
    """
    gc.collect()
    gc.freeze()
