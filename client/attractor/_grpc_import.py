"""First import of gRPC, without its fork handlers unless the environment asks for them.

They run by default, do not know of gRPC's event loops, and crash the children of a process with an open stream now and
then. gRPC reads the setting once, when it is first imported; whoever imports it before has to set it.
"""

import os

_SETTING = "GRPC_ENABLE_FORK_SUPPORT"

if _SETTING in os.environ:
    import grpc
else:
    os.environ[_SETTING] = "0"
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[_SETTING]  # other programs may need them
