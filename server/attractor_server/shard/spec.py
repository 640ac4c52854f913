"""Settings that a shard is started with."""

import os
import secrets
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Literal

from attractor_server.cgroups import cpu_limit
from attractor_server.logs import LogFormat
from attractor_server.storage.backends.postgres_password import join_password, read_password
from attractor_server.storage.claims import LEASE_S


@dataclass(frozen=True, kw_only=True)
class Transport:
    """Times of connections, in seconds."""

    concurrent_streams: int = 1024
    """On one connection; further calls wait at the client"""
    keepalive_s: float = 30.0
    """Silence after which a client is asked whether it is there"""
    keepalive_timeout_s: float = 10.0
    """Silence after that question, until its connection is closed"""
    ping_interval_s: float = 10.0
    """Shortest time between a client's pings: one that asks more often, some strikes granted, is sent away"""
    idle_s: float = 900.0
    """Time after which a connection without calls is closed"""
    age_s: float = 3600.0
    """Time after which a connection takes no new calls, so that clients spread anew; sessions resume by themselves"""
    age_grace_s: float = 30.0
    """Time until the calls of such a connection are ended"""


@dataclass(frozen=True, kw_only=True)
class TLSFiles:
    """PEM files of a shard that speaks TLS, at the same paths wherever one runs."""

    certificate: Path
    """Its own, then those that it was issued by"""
    key: Path
    client_ca: Path | None = None
    """Whose certificates clients must have one of; None: clients need none"""
    ca: Path | None = None
    """What other shards are verified by; None: `certificate`"""
    server_name: str = ""
    """Name in the certificates of other shards; empty: the first one in this shard's"""
    optional: bool = False
    """Connections without TLS are taken at the same port"""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """Settings of one shard. Travels to whichever process runs it."""

    number: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    ports: int = 1
    """From `port` on, of which the first free one is taken"""
    advertise: str = "127.0.0.1"
    admin_port: int | None = None
    """Of probes and metrics; 0 is any, None is none. Where there are several `ports`, from it on the first free one"""
    admin_debug: bool = False
    """Stacks, tasks and profiles are shown there, too"""
    follows: int = 0
    """The port of a stand-in for all shards, which the first of them listens at when it is told to serve; 0: none"""
    place_resource: str = ""
    """The resource of Ray nodes of which a shard takes one; empty: any node has a place"""
    device: str = "cpu"
    threads: int = 1
    """0: a part of the cores where the shard runs"""
    sharing: int = 1
    """Shards that cores are shared by, and memory"""
    models: Path | None = None
    bank_bytes: int = 1 << 30
    """Of each model's fast weights; 0: an equal part of the memory there is where the shard runs"""
    bank_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    recall: Literal["posterior", "network"] = "posterior"
    """What answers queries of memories that are made without that setting"""
    artifacts: Path | str | None = None
    """Folder, or address of a bucket, for large images of pages that are kept. In a folder also pages wait that have no
    room in the bank, below which each shard has its own; else in files without a name"""
    store_uri: str = field(default="", repr=False)
    """Address of the backend store that shards share, without a password; empty: nothing outlives the shard"""
    password: str = field(default="", repr=False, compare=False)
    """Of the store. Ray keeps what a shard is started with: it never goes there"""
    password_file: Path | None = None
    """Where the shard reads it from, when it starts"""
    asks_password: bool = False
    """The supervisor of the shards has it"""
    request_bytes: int = 1 << 30
    """Bytes that calls may hold, from before their messages are decoded until their answers are sent"""
    waiting_patterns: int = 16_384
    batch_patterns: int = 2048
    batch_s: float = 0.02
    """Longest time of a batch: requests of others wait for as long"""
    warm_up: bool = True
    """Programs run once before the shard serves"""
    log_file: Path | None = None
    """Where it logs to beside its own stderr, which Ray keeps in a folder"""
    log_format: LogFormat = "text"
    check_banks: bool = False
    """The places of banks are checked after each batch; where two pages share one the shard ends"""
    lease_s: float = LEASE_S
    """Time for which a shard that does not reach the store answers from what it has"""
    identities: Path | None = None
    """File of who may call, read where the shard runs; None: everybody may do everything"""
    quotas: Path | None = None
    """File of what namespaces may keep and ask for, read where the shard runs; None: as much as there is room"""
    audit_log: Path | None = None
    """File of who did what, where the shard runs"""
    transport: Transport = field(default_factory=Transport)
    tls: TLSFiles | None = None
    """None: connections without TLS"""
    secret: str = field(default_factory=secrets.token_hex, repr=False, compare=False)
    """By which shards without a store prove to one another that they are of one server"""

    @property
    def durable(self) -> bool:
        """Whether memories outlive the shard."""
        return bool(self.store_uri)


def store_address(spec: ShardSpec) -> str:
    """Return the address of the store, with its password.

    Raises:
        SettingsError: the file of the password cannot be read.
    """
    return join_password(spec.store_uri, spec.password or read_password(spec.password_file))


def threads_for(asked: int, shards: int) -> int:
    """Return the threads of each shard: as asked, or its part of the cores."""
    return asked or max(1, available_cores() // max(shards, 1))


def available_cores() -> int:
    """Count the cores that this process may run on, and whose time its container has.

    On macOS, where a process has no affinity, those of the machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    return cores if limit is None else min(cores, ceil(limit))
