"""The configuration: `config.json` as documented in the README, single values overridden by environment variables.

It is read from the path in ``COMPUTE_CONFIG``, else from ``./config.json``, else every value has its default.
``COMPUTE_STORAGE__URI=s3://bucket/prefix`` overrides ``storage.uri``; sections and keys are joined by two underscores.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from compute.errors import ConfigurationError

CONFIG_VARIABLE = "COMPUTE_CONFIG"
ENV_PREFIX = "COMPUTE_"

_CENTURY = 36_500.0
"""Days; what is longer is a mistake, and cannot be reckoned with."""
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(value: object) -> int:
    """Return a number of bytes from an integer or from text such as ``"32g"``, ``"512 MiB"``.

    Examples
    --------
    >>> parse_bytes("32g"), parse_bytes("512 MiB"), parse_bytes(10)
    (34359738368, 536870912, 10)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(value).lower())
    if not match or isinstance(value, bool):
        raise ValueError('a size in bytes such as 1048576, "512m" or "32g"')
    return int(float(match[1]) * _UNITS[match[2]])


Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ComputeSection(_Section):
    """Which engine runs tasks, and how much of it they may take together."""

    backend: Literal["auto", "local", "ray", "dask"] = Field(
        "auto", description="`auto`: Ray when this process is connected to it or a cluster runs here, else local."
    )
    ray_address: str | None = Field(None, description="`ray://host:10001` (Ray Client), `host:6379`, or `auto`.")
    dask_address: str | None = Field(
        None, description="`host:8786` of a Dask scheduler; `local`: one that is started; none: Dask on Ray."
    )
    local_workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="Local processes.")
    cpu_limit: float | None = Field(None, gt=0, description="CPUs that the tasks of a manager use at once, at most.")
    memory_limit: Bytes | None = Field(None, description="Memory that those tasks declare at once, at most.")
    gpu_limit: float | None = Field(None, ge=0, description="GPUs that those tasks use at once, at most.")
    warm_workers: int = Field(
        2, ge=0, description="Processes on each Ray node that keep the libraries of models imported; 0: none."
    )
    warm_idle: float = Field(600, gt=0, description="Seconds without work after which such a process ends.")
    warm_memory: Bytes = Field(
        2**30, description="Bytes that it may hold more after a run than when it started, before it is replaced."
    )


class ClusterResources(_Section):
    """What one task manager may take of a named cluster; as the limits of `compute`."""

    cpu: float | None = Field(None, gt=0)
    memory: Bytes | None = None
    gpu: float | None = Field(None, ge=0)


class Cluster(_Section):
    """A cluster that `get_compute_manager(name)` connects to."""

    name: str = Field(min_length=1)
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    type: Literal["ray", "dask"]
    resources: ClusterResources = ClusterResources()


class TaskDefaults(_Section):
    """What a task gets when `submit_task` names nothing else."""

    timeout: float | None = Field(None, gt=0, description="Seconds that one attempt may run.")
    retries: int = Field(3, ge=0, description="Attempts after the first, when the worker or the system failed.")
    backoff_factor: float = Field(1.5, ge=1, description="Growth of the pause from one retry to the next.")


class Scaling(_Section):
    """How far, and how fast, what serves and computes grows and shrinks."""

    min_workers: int = Field(1, ge=0)
    max_workers: int = Field(1, ge=1)
    target_utilization: float = Field(0.8, gt=0, le=1)
    scale_up_delay: float = Field(30, ge=0, description="Seconds above the target before growing.")
    scale_down_delay: float = Field(300, ge=0, description="Seconds below the target before shrinking.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers is {self.min_workers}, more than max_workers, which is {self.max_workers}")
        return self


class Dashboard(_Section):
    """Which dashboards are started along with a cluster that we start."""

    ray: bool = True
    dask: bool = True


class MetricsRetention(_Section):
    """How long finished work is remembered."""

    days: float = Field(7, gt=0, le=_CENTURY)


class PredictionLogging(_Section):
    """What is kept of requests to models and of their answers."""

    sample: float = Field(0.0, ge=0, le=1, description="Share of the requests that is kept; 0: none.")
    models: tuple[str, ...] = Field((), description="Names of the models that are concerned; none: all.")
    interval: float = Field(60.0, ge=1, le=3600, description="Seconds from one write to the next.")
    max_rows: int = Field(50_000, ge=1, description="Rows that a replica holds till then; beyond, they are left out.")


class Monitoring(_Section):
    """What is measured and remembered."""

    enabled: bool = True
    dashboard: Dashboard = Dashboard()
    metrics_retention: MetricsRetention = MetricsRetention()
    prediction_log: PredictionLogging = PredictionLogging()


class S3(_Section):
    """Access to S3; what is left out comes from the standard AWS chain."""

    endpoint_url: str | None = Field(None, pattern=r"^https?://", description="Of a server other than AWS's.")
    region: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    connect_timeout: float = Field(5, gt=0, description="Seconds to wait for a connection.")
    read_timeout: float = Field(
        5,
        gt=0,
        description="Seconds to wait for the next bytes of an answer; after two of these without any, it fails.",
    )

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together: give both or neither")
        return self


class Cache(_Section):
    """Models from a remote store that this node keeps on its own disk, for all its processes."""

    directory: str | None = Field(None, description="Private to its user; by default in the user's cache directory.")
    max_bytes: Bytes = Field(10 * 2**30, description="Together; those used last stay. 0: nothing is kept.")


class Storage(_Section):
    """Where all state lives, and where a person puts tables."""

    uri: str = Field("state", description="A directory, `file://...` or `s3://bucket/prefix`.")
    data_uri: str = Field("data", description="Where clients of the HTTP interface may read and write tables.")
    keep_deleted_days: float = Field(30, ge=0, le=_CENTURY, description="How long a deleted model can be restored.")
    read_staleness: float | None = Field(
        None, ge=0, description="Seconds for which a read may miss what another process wrote; null: as `staleness`."
    )
    s3: S3 = S3()
    cache: Cache = Cache()

    @property
    def staleness(self) -> float:
        """`read_staleness`; when it is left out, 0.2 s on S3, where a look costs a request, and else 0."""
        if self.read_staleness is None:
            return 0.2 if self.uri.startswith("s3:") else 0.0
        return self.read_staleness


class Security(_Section):
    """Who is let in over HTTP, and what they may name."""

    allowed_hosts: tuple[str, ...] = Field(
        ("localhost", "127.0.0.1", "[::1]"), description="Values of the Host header that are answered, without port."
    )
    allowed_origins: tuple[str, ...] = Field(
        (), description="Origins, besides the server's own, browsers may call from."
    )
    allowed_uris: tuple[str, ...] = Field((), description="URI prefixes, besides `storage.data_uri`, clients may name.")
    max_body: Bytes = Field(64 * 2**20, description="Largest request body, uploads aside.")
    max_upload: Bytes = Field(10 * 2**30, description="Largest model upload.")
    webhook_hosts: tuple[str, ...] = Field(
        (), description="Names, addresses and networks that webhooks may be sent to; private addresses only if here."
    )
    webhook_days: float = Field(
        3, ge=0, le=_CENTURY, description="Days of nothing but failures after which a webhook is disabled."
    )

    @field_validator("webhook_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            # A colon is in addresses of version 6; a port or a scheme is what people write by mistake.
            if not re.fullmatch(
                r"[A-Za-z0-9._-]+(/\d{1,3})?|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?(/\d{1,3})?", host
            ):
                raise ValueError(
                    f"{host!r}: expected a name, an address, or a network such as 10.0.0.0/8; no scheme or port"
                )
        return hosts

    custom_formats: tuple[str, ...] = Field(
        (), description="Installed formats of models, besides our own, whose code may be loaded."
    )


class Config(BaseSettings):
    """The whole configuration; frozen, and picklable for the trip to a worker."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    compute: ComputeSection = Field(default_factory=ComputeSection)
    clusters: tuple[Cluster, ...] = ()
    task_defaults: TaskDefaults = TaskDefaults()
    scaling: Scaling | None = None
    monitoring: Monitoring = Monitoring()
    storage: Storage = Storage()
    security: Security = Security()

    @field_validator("clusters")
    @classmethod
    def _named_once(cls, clusters: tuple[Cluster, ...]) -> tuple[Cluster, ...]:
        names = [cluster.name for cluster in clusters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {twice[0]!r} is given twice")
        return clusters

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the signature is the library's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


def load_config(path: str | os.PathLike[str] | None = None) -> Config:
    """Read the configuration.

    Parameters
    ----------
    path : str or path-like, optional
        The file; by default the path in ``COMPUTE_CONFIG``, else ``./config.json`` if it is there.

    Returns
    -------
    Config
        With ``storage.uri``, ``data_uri`` and ``cache.directory`` made absolute: they are relative to the folder of the
        file, or to the working directory when there is no file.

    Raises
    ------
    ConfigurationError
        Naming the key, the value and what was expected.

    Examples
    --------
    >>> load_config().task_defaults.backoff_factor
    1.5
    """
    named = path or os.environ.get(CONFIG_VARIABLE)
    file = Path(named) if named else Path("config.json")
    values: dict[str, Any] = {}
    if named or file.exists():
        values = _read(file)
    _refuse_unknown_variables()
    try:
        config = Config(**values)
    except ValidationError as error:
        raise _explain(error, file if values else None) from None
    base = file.parent if values else Path()
    absolute: dict[str, Any] = {key: _absolute(getattr(config.storage, key), base) for key in ("uri", "data_uri")}
    if (cache := config.storage.cache).directory is not None:
        directory = (base / Path(cache.directory).expanduser()).absolute()
        absolute["cache"] = cache.model_copy(update={"directory": str(directory)})
    return config.model_copy(update={"storage": config.storage.model_copy(update=absolute)})


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the configuration file {file}: {error.strerror}",
            hint=f"Set {CONFIG_VARIABLE} to a readable JSON file, or unset it for the defaults.",
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"the configuration file {file} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"the configuration file {file} holds a {type(values).__name__}, not an object")
    return values


def _refuse_unknown_variables() -> None:
    """Refuse a misspelt section in an environment variable, which would otherwise be ignored."""
    for name in os.environ:
        section = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if name.startswith(ENV_PREFIX) and "__" in name and section not in Config.model_fields:
            raise ConfigurationError(
                f"the environment variable {name} names no section of the configuration",
                hint=f"Sections are {', '.join(Config.model_fields)}; write {ENV_PREFIX}STORAGE__URI for storage.uri.",
            )


def _explain(error: ValidationError, file: Path | None) -> ConfigurationError:
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        variable = ENV_PREFIX + "__".join(str(part).upper() for part in item["loc"])
        source = f"${variable}" if variable in os.environ else str(file or "the arguments")
        if item["type"] == "extra_forbidden":
            lines.append(f"{key} (in {source}): unknown key; {_expected_keys(item['loc'])}")
        else:
            value = "***" if "key" in key.rpartition(".")[2] else repr(item.get("input"))
            lines.append(f"{key} = {value} (in {source}): {item['msg']}")
    return ConfigurationError("; ".join(lines), hint="The README lists every key with its meaning.")


def _expected_keys(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
    return f"expected one of {', '.join(model.model_fields)}"


def _absolute(uri: str, base: Path) -> str:
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    return uri if "://" in uri else (base / Path(uri).expanduser()).absolute().resolve().as_uri()
