"""The event loop that a shard runs on."""

import sys
from collections.abc import Mapping


def loop_options() -> Mapping[str, object]:
    """Options for anyio's asyncio backend: uvloop, which takes a fifth off a call's processor time, where it exists."""
    if sys.platform == "win32":
        return {}
    import uvloop  # noqa: PLC0415 - not on every platform

    return {"loop_factory": uvloop.new_event_loop}
