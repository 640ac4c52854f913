"""Errors of a start for which this machine has too little memory."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from attractor_server.errors import SettingsError

_TORCH_ERROR = "OutOfMemoryError"
"""Of a GPU; a class of PyTorch's, which is not loaded here"""

_ALLOCATOR_ERROR = "can't allocate memory"
"""In the message of a RuntimeError of PyTorch's allocator on a CPU"""


@contextmanager
def explain_out_of_memory(bank_bytes: int, *, models: int = 0) -> Iterator[None]:
    """Raise an error that names the settings where the block fails for want of memory.

    `bank_bytes` is for the bank of each of the `models` that are served, 0 a share of what is free.

    Raises:
        SettingsError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError, SettingsError) as error:
        if not _is_out_of_memory(error.__cause__ if isinstance(error, SettingsError) else error):
            raise
        needed = f" for each of {models} models" if models else " for each model"
        raise SettingsError(
            f"bank_memory_mib: saw {bank_bytes >> 20}{needed}, and the machine, or its limit for this process, "
            "has not so much left: expected less of it, fewer models in the folder of --models, or fewer --shards"
        ) from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or type(error).__name__ == _TORCH_ERROR or _ALLOCATOR_ERROR in str(error)
