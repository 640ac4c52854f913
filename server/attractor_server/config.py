"""Settings: read once, here, from flags, then the environment (ATTRACTOR_*), then a TOML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from attractor_server.errors import SettingsError
from attractor_server.logs import LogFormat
from attractor_server.storage.artifacts import SCHEMES
from attractor_server.storage.backends.opening import backend_of
from attractor_server.storage.backends.postgres_password import join_password, read_password
from attractor_server.storage.backends.sqlite_backend import uri_of

ENV_PREFIX = "ATTRACTOR_"


class Settings(BaseSettings):
    """Settings of `attractor serve`. The descriptions are its `--help`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    shards: int = Field(
        1,
        ge=0,
        le=16_384,
        description="Shards to start, each a process with a port of its own. 0: one for each node of the Ray cluster "
        "(each GPU with --device cuda), as nodes come and go.",
    )
    slots: int = Field(
        1024, ge=1024, le=1 << 20, description="Hash slots, a power of two; 64 or more a shard are well."
    )
    host: str = Field(
        "",
        description="Address that shards listen on; 0.0.0.0 for all of the machine's. Empty: 127.0.0.1, with "
        "--ray-address 0.0.0.0.",
    )
    port: int = Field(
        7171,
        ge=0,
        le=65535,
        description="Port of the first shard, the next ones follow; with --ray-address each takes the first that is "
        "free on its node. 0: any.",
    )
    advertise: str = Field(
        "",
        description="Host that clients reach the shards at. Empty: --host, or where that is all addresses, the one of "
        "the machine that others reach.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file with the certificate of this server, then those that issued it, read again when it "
        "changes, on each node; with it shards speak TLS alone. Empty: no TLS.",
    )
    tls_key: Path | None = Field(None, validate_default=True, description="PEM file with the key of that certificate.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with certificates; clients, and shards among themselves, need one that was issued by one "
        "of them. Empty: clients need none.",
    )
    tls_ca: Path | None = Field(
        None,
        description="PEM file with the certificates that shards verify one another by. Empty: those in --tls-cert.",
    )
    tls_server_name: str = Field(
        "", description="Name that shards expect in one another's certificates. Empty: the first in --tls-cert."
    )
    tls_optional: bool = Field(
        False, description="Also take connections without TLS at the same port, while clients are changed over."
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the first shard for probes and metrics by HTTP, without authentication: /livez, /readyz, "
        "/metrics, /config. The next ones follow, as those of --port do. 0: any. Not given: none, nothing is counted.",
    )
    admin_debug: bool = Field(
        False, description="Show stacks, tasks and profiles of shards at /debug of the admin port, too."
    )
    models: Path | None = Field(None, description="Folder of model files to serve beside those that ship.")
    ray_address: str = Field("", description="Ray cluster to join, host:port or auto. Empty: a Ray of its own, inside.")
    place_resource: str = Field(
        "",
        description="Resource of the Ray cluster's nodes, of which each shard takes 1: `ray start --resources "
        "'{\"NAME\": 1}'` makes a node one with a place for a single shard, and others have none. Empty: any node.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="What shards compute on; cuda takes a GPU for each.")
    threads: int = Field(
        0, ge=0, description="Threads that each shard computes with; 0: the cores of its container, shared out."
    )
    durable: bool = Field(True, description="Keep memories on disk; no: they are gone when the server ends.")
    data_dir: Path | None = Field(
        None, description="Folder that memories are kept in. Empty: the user's own; on a cluster: they are not kept."
    )
    backend_store_uri: str = Field(
        "",
        description="PostgreSQL that memories are kept in, postgresql://USER@HOST/DATABASE. Empty: the data folder. "
        "One with a password belongs in the variable or the file: flags are seen by all users of a machine.",
    )
    backend_password_file: Path | None = Field(
        None,
        description="File with the password of the database, which this command and each shard read where they run. "
        "Empty: the password of the address, PGPASSWORD, or PostgreSQL's own file.",
    )
    identities: Path | None = Field(
        None,
        description="File of who may call, and which memories each may read and write (docs/security.md), read where "
        "each shard runs and again when it changes. Empty: whoever reaches the port may do everything.",
    )
    quotas: Path | None = Field(
        None,
        description="File of how many memories, items and bytes each namespace may keep, and how much it may ask for "
        "(docs/security.md), read where each shard runs and again when it changes. Empty: as much as there is room.",
    )
    audit_log: Path | None = Field(
        None,
        description="File to which each shard adds, where it runs, who did what to which memory, as lines of JSON "
        "without values: calls that make, change or delete memories and refusals one by one, all others as counts.",
    )
    insecure: bool = Field(
        False,
        description="Listen where other machines reach the port without TLS or identities; else that is refused.",
    )
    bank_memory_mib: int = Field(
        1024,
        ge=0,
        description="Memory for the fast weights of each model, in each shard. 0: an equal part of what the memory of "
        "the container (or the machine, or the GPU) leaves.",
    )
    bank_dtype: Literal["float32", "bfloat16", "int8"] = Field(
        "float32", description="What fast weights are kept as; of fewer bits more memories fit."
    )
    recall: Literal["posterior", "network"] = Field(
        "posterior",
        description="What answers the queries of memories that are made without that setting: the network and the kept "
        "patterns, weighed by one another (posterior), or the network alone.",
    )
    artifact_store: str = Field(
        "",
        description="Folder for large pages, and for those that have no room in the bank; or s3://, gs:// or az://. "
        "Empty: large pages are kept with the others, and those without room in the system's temporary files.",
    )
    request_memory_mib: int = Field(
        1024, ge=256, description="Memory that all calls together may hold in each shard; more wait, then are refused."
    )
    waiting_patterns: int = Field(16_384, ge=1, description="Patterns that may wait in a shard; more are refused.")
    batch_patterns: int = Field(2048, ge=1, description="Patterns computed in one batch.")
    batch_ms: float = Field(20.0, gt=0, description="Milliseconds a batch should take at most.")
    warm_up: bool = Field(True, description="Run every program once before serving; no: start sooner.")
    check_banks: bool = Field(
        False,
        description="After each batch, check that no two pages share a place in the bank, and end the shard where two "
        "do; Ray starts it again. For finding faults: it takes some milliseconds of every batch.",
    )
    on_stop: Literal["", "leave", "end"] = Field(
        "",
        description="What becomes of shards when `attractor serve` is told to stop: they end, or are left to the next "
        "command. Empty: they end; with --ray-address they are left, and `attractor stop` ends them.",
    )
    on_change: Literal["refuse", "restart"] = Field(
        "refuse",
        description="What `attractor serve --ray-address` does where shards run with other settings: it ends, or "
        "(where memories are kept) ends these and starts others, for which clients wait some seconds.",
    )
    grace_s: float = Field(20.0, ge=0, description="Seconds for finishing what was accepted when told to stop.")
    connection_age_s: float = Field(3600.0, gt=0, description="Seconds after which clients are asked to reconnect.")
    shard_log: Path | None = Field(
        None,
        description="File that each shard logs to as well, where it runs: /proc/1/fd/2 is the stderr of its container, "
        "which Ray keeps from it. Lines of shards reach the stderr of this command in any case.",
    )
    log_format: LogFormat = Field("text", description="Form of what is logged: text, or json, an object in each line.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="What is logged, to stderr.")

    @property
    def listen_host(self) -> str:
        """The address that was named to listen on; or the loopback interface, and on a Ray cluster all interfaces."""
        return self.host or ("0.0.0.0" if self.ray_address else "127.0.0.1")  # noqa: S104

    @property
    def leaves_shards(self) -> bool:
        """Whether shards go on when their command is told to stop; a Ray of our own ends with it, and they do then."""
        return bool(self.ray_address) and self.on_stop != "end"

    @property
    def data_folder(self) -> Path:
        """The folder that was named for memories, or the user's own."""
        return (self.data_dir or user_data_path("attractor", appauthor=False)).resolve()

    @property
    def store_uri(self) -> str:
        """The address of the store that was named for memories, with its password, or of their folder."""
        if not self.backend_store_uri:
            return uri_of(self.data_folder)
        return join_password(self.backend_store_uri, read_password(self.backend_password_file))

    @property
    def artifacts(self) -> Path | str | None:
        """The artifact store: a folder, the address of a bucket, or none."""
        if not self.artifact_store or self.artifact_store.startswith(SCHEMES):
            return self.artifact_store or None
        return Path(self.artifact_store).resolve()

    @field_validator("tls_key")
    @classmethod
    def _check_key(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("tls_cert") is None):
            raise PydanticCustomError("tls_key", "expected --tls-cert and --tls-key, both or none")
        return key

    @field_validator("tls_client_ca", "tls_optional")
    @classmethod
    def _check_tls(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("tls_cert") is None:
            raise PydanticCustomError("tls_cert", "of use with TLS only; expected --tls-cert as well")
        return value

    @field_validator("backend_store_uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        if uri:
            backend_of(uri).label(uri)
        return uri

    @field_validator("on_stop")
    @classmethod
    def _check_on_stop(cls, on_stop: str, info: ValidationInfo) -> str:
        if on_stop == "leave" and not info.data.get("ray_address"):
            raise PydanticCustomError(
                "on_stop", "shards of a Ray inside the server end with it; expected --ray-address"
            )
        return on_stop

    @field_validator("place_resource")
    @classmethod
    def _check_place(cls, name: str, info: ValidationInfo) -> str:
        if name and not info.data.get("ray_address"):
            raise PydanticCustomError(
                "place_resource", "a Ray inside the server has no other nodes; expected --ray-address"
            )
        return name

    @field_validator("slots")
    @classmethod
    def _check_slots(cls, slots: int, info: ValidationInfo) -> int:
        shards = info.data.get("shards", 1)
        if slots & (slots - 1) or slots < shards:
            raise PydanticCustomError(
                "slots", "expected a power of two, no less than {shards} shards", {"shards": shards}
            )
        return slots

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put flags before the environment, and that before the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(flags: Mapping[str, object], file: Path | None = None) -> Settings:
    """Read the settings; `flags` holds what was given on the command line.

    Raises:
        SettingsError: naming the setting, the value seen and the value expected.
    """
    if file is not None and not file.is_file():
        raise SettingsError(f"config: saw {str(file)!r}, which is no file; expected a TOML file")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FromFile(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_fault(problem["loc"], problem) for problem in error.errors())) from None
    except ValueError as error:
        raise SettingsError(f"config: {file} cannot be read as TOML: {error}") from None


def _fault(path: tuple[int | str, ...], problem: Mapping[str, object]) -> str:
    name = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; expected one of {sorted(Settings.model_fields)}"
    secret = path[:1] == ("backend_store_uri",)
    seen = f"one of type {type(problem['input']).__name__}" if secret else repr(problem["input"])
    return f"{name}: saw {seen}; {problem['msg']}"
