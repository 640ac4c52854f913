"""Settings of a client, and the limits of a shard."""

import math
import random
from dataclasses import dataclass, field

from attractor._tls import TLS
from attractor._token import Token, is_local
from attractor_proto.names import MESSAGE_LIMIT_BYTES


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Delays between attempts after UNAVAILABLE: doubled each time, and shortened by up to half at random."""

    first_delay_s: float = 0.05
    limit_delay_s: float = 2.0

    def delay_s(self, attempt: int) -> float:
        """Return the delay after that many failed attempts, from 1 on."""
        full_s = self.first_delay_s * math.exp2(min(attempt - 1, 32))
        return min(full_s, self.limit_delay_s) * random.uniform(0.5, 1)  # noqa: S311


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Arguments of `connect`; times in seconds."""

    client_id: str = ""
    """Identity of one opening; empty in a client that is not open."""
    timeout_s: float = 60.0
    """Timeout of a call that names none."""
    connect_timeout_s: float = 5.0
    """Time until the first session is open, and for each attempt at a later one."""
    route_timeout_s: float = 2.0
    """Time until a shard that was named by another one answers; then the other one forwards."""
    route_retry_s: float = 5.0
    """Time until such a shard is tried again."""
    in_flight_patterns: int = 4096
    """Patterns sent and not answered, on each stream."""
    direct: bool = True
    """Whether to connect to owners that shards name."""
    use_proxy: bool = False
    """Whether to connect by way of the proxy that the environment names."""
    tls: TLS | None = None
    """None: connections without TLS."""
    token: Token | None = field(default=None, repr=False)
    """Token by which the client proves who it is, or a function that returns it."""
    plaintext_token: bool = False
    """Whether to send it to other machines without TLS."""
    retry: Retry = field(default_factory=Retry)

    def may_reach(self, address: str) -> bool:
        """Return whether calls to that address may be made: not where others could read the token on its way."""
        return self.token is None or self.tls is not None or self.plaintext_token or is_local(address)


@dataclass(frozen=True)
class Limits:
    """Limits of one frame to a shard."""

    patterns: int = 1 << 31
    message_bytes: int = MESSAGE_LIMIT_BYTES

    @property
    def payload_bytes(self) -> int:
        """Part of a message for tensors, after columns, names and tags."""
        return self.message_bytes - self.message_bytes // 16
