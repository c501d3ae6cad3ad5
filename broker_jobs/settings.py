"""Holds the settings of a process, from the command line, the program and the environment (`BROKER_JOBS_*`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from broker_jobs.errors import OptionError, nearest
from broker_jobs.errors import mask as mask  # also exported from here
from broker_jobs.served_queues import ServedQueues, parse_limits
from broker_jobs.service_name import why_no_service_name

PREFIX = "BROKER_JOBS_"
MASK = (
    *("password", "passwd", "passphrase", "secret", "token", "api_key", "authorization", "cookie"),
    *("credential", "private_key", "card", "cvv", "cvc", "iban", "ssn"),
)
"""Words in the names of secret arguments. `dashboard/masking.py` describes how they are matched."""


def _split(value: object) -> object:
    """Read a list that is written as text: separated by commas, or a JSON list."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        return tuple(json.loads(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a list; separate the values by commas: one,two") from None


def _queues(value: object) -> object:
    """Read the queues of a worker: a list, or a mapping of names and weights."""
    if isinstance(value, Mapping):
        return tuple(f"{name}:{weight}" for name, weight in value.items())
    return _split(value)


def _limits(value: object) -> object:
    """Read limits: a mapping, or as they are written, bulk=2."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a limit of a queue; write the queue and a number: bulk=2") from None
    if isinstance(value, Mapping):
        value = [f"{name}={limit}" for name, limit in value.items()]
    if isinstance(value, list | tuple):  # an option that was given several times
        value = ",".join(map(str, value))
    parts = _split(value)
    if not isinstance(parts, tuple):
        raise ValueError(f"{value!r} is not a limit of a queue; write the queue and a number: bulk=2")  # noqa: TRY004
    return parse_limits([str(part) for part in parts])


TextList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""NoDecode: without it pydantic reads a list in the environment as JSON only, and its error does not say so."""


class Settings(BaseSettings):
    """All settings of one process. Lengths of time are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    url: str = Field(
        default="memory://",
        description="amqp:// or amqps:// (several: separated by commas), or memory:// for a broker in this process",
    )
    store: str = Field(
        default="",
        description="sqlite:///path or postgresql+psycopg://…; empty: store.db in ~/.local/share/broker_jobs",
    )
    service: str = Field(
        default="",
        description="name of the program, which its recurring jobs, subscriptions and functions belong to; on RabbitMQ "
        "a program with recurring jobs or subscriptions needs one",
    )
    declare: bool = Field(
        default=True, description="declare exchanges and queues at start; false if an administrator has declared them"
    )
    require_user_id: bool = Field(
        default=False,
        description="the coordinator believes only messages that name the RabbitMQ user who sent them; true where each "
        "role has a user of its own",
    )
    publish_timeout: float = Field(
        default=10.0, gt=0, le=600, description="seconds that an enqueue waits for RabbitMQ's confirm"
    )
    fail_fast: bool = Field(
        default=False,
        description="an enqueue raises at once while RabbitMQ is known to be unreachable or to block publishing",
    )
    expire_commands: bool = Field(
        default=False,
        description="commands of this program (delete, pause …) that are not applied within publish_timeout never will "
        "be; always so at the command line and on the dashboard",
    )
    max_body: int = Field(
        default=256 * 1024,
        ge=1024,
        le=8 * 1024 * 1024,
        description="largest job that is enqueued, in bytes of its JSON",
    )
    heartbeat: int = Field(default=20, ge=5, le=600, description="seconds between AMQP heartbeats")
    queues: Annotated[TextList, BeforeValidator(_queues)] = Field(
        default=("default",),
        description="queues that a worker serves: mail,bulk prefers the first; mail:3,bulk:1 shares their starts. "
        "Where it is not set, `jobs.start()` and `broker-jobs run` serve all queues that the code declares",
    )
    queue_limits: Annotated[dict[str, int], NoDecode, BeforeValidator(_limits)] = Field(
        default={},
        description="jobs of a queue that a worker process runs at once: bulk=2; the others have its concurrency",
    )
    concurrency: int = Field(default=16, ge=1, le=10_000, description="jobs that a worker process runs at once")
    processes: int = Field(default=1, ge=1, le=1024, description="number of worker processes")
    max_jobs: int | None = Field(
        default=None,
        ge=1,
        description="jobs that a process of `worker` takes before a fresh one replaces it; none: no limit",
    )
    max_memory: int | None = Field(
        default=None,
        ge=1,
        description="MiB of resident memory over which a process of `worker` is replaced, after its running jobs; "
        "none: no limit",
    )
    prefetch_max: int = Field(
        default=1_500,
        ge=1,
        le=65_535,
        description="largest prefetch of a queue: deliveries that a worker process has at once",
    )
    worker_heartbeat: float = Field(default=5.0, gt=0, le=10, description="seconds between heartbeats of a worker")
    handover_after: float = Field(
        default=60.0,
        gt=0,
        description="seconds after which a running job is acknowledged and guarded by the worker's lease",
    )
    timeout_grace: float = Field(
        default=10.0,
        gt=0,
        description="seconds that a job gets to end after its timeout; when they are over, its worker process leaves",
    )
    shutdown_timeout: float = Field(
        default=30.0, ge=0, description="seconds that a stopping worker waits for its running jobs"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address on which /metrics and /healthz are served")
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="port of /metrics and /healthz; 0: any free port; none: not served"
    )
    dashboard_host: str = Field(
        default="127.0.0.1", description="address on which the dashboard is served; any but 127.0.0.1 needs a login"
    )
    dashboard_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="port of the dashboard; 0: any free port; none: 8700, and not served by `run`",
    )
    dashboard_token: str = Field(
        default="", repr=False, description="token that gives access to the dashboard, and to its API as a bearer token"
    )
    dashboard_user: str = Field(default="", description="user name for the dashboard's login")
    dashboard_password: str = Field(default="", repr=False, description="password for the dashboard's login")
    dashboard_read_only: bool = Field(default=False, description="the dashboard shows everything and changes nothing")
    dashboard_title: str = Field(default="broker_jobs", description="title of the dashboard's pages")
    dashboard_path: str = Field(default="", description="path under which a proxy serves the dashboard, such as /jobs")
    keep_succeeded: float = Field(default=7 * 86400.0, gt=0, description="seconds that succeeded jobs are kept")
    keep_deleted: float = Field(default=7 * 86400.0, gt=0, description="seconds that deleted jobs are kept")
    keep_failed: float = Field(default=90 * 86400.0, gt=0, description="seconds that failed jobs are kept")
    keep_dead_letters: float = Field(default=90 * 86400.0, gt=0, description="seconds that dead letters are kept")
    max_dead_letters: int = Field(
        default=100_000, ge=1, description="number of dead letters that are kept; beyond it the oldest are removed"
    )
    max_dead_letter_bytes: int = Field(
        default=1_000_000_000,
        ge=1,
        description="bytes of all dead letters that are kept; beyond them the oldest are removed",
    )
    mask: TextList = Field(default=MASK, description="words in the names of arguments whose values are not shown")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: Literal["text", "json"] = Field(
        default="text", description="how the commands log: text, or json with one object on a line"
    )

    @field_validator("queues")
    @classmethod
    def _served(cls, queues: tuple[str, ...]) -> tuple[str, ...]:
        ServedQueues.parse(queues)
        return queues

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.names_queues:  # else the program's code may name more
            ServedQueues.parse(self.queues, self.queue_limits)
        return self

    @field_validator("url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        for part in url.split(","):
            scheme = urlsplit(part.strip()).scheme
            if scheme not in {"amqp", "amqps", "memory"}:
                raise ValueError(
                    f"{mask(part)!r} is not a broker address; write amqp://user:password@host:5672/vhost or memory://"
                )
        return url

    @field_validator("service")
    @classmethod
    def _service_name(cls, service: str) -> str:
        wrong = why_no_service_name(service)
        if wrong is not None:
            raise ValueError(wrong)
        return service

    @field_validator("dashboard_path")
    @classmethod
    def _path(cls, path: str) -> str:
        trimmed = path.rstrip("/")
        if trimmed and (not trimmed.startswith("/") or "//" in trimmed or not trimmed.isprintable()):
            raise ValueError(f"{path!r} is not a path; write it like /jobs")
        return trimmed

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues that a worker serves, without their weights."""
        return ServedQueues.parse(self.queues).names

    @property
    def names_queues(self) -> bool:
        """Whether `queues` was set."""
        return "queues" in self.model_fields_set

    @property
    def in_memory(self) -> bool:
        """Whether the broker is in memory (`memory://`)."""
        return self.url.startswith("memory://")

    @property
    def declared_by(self) -> str:
        """The name under which the program declares: `service`. In memory there is one program, which needs none."""
        return self.service or ("main" if self.in_memory else "")

    @property
    def names_broker(self) -> bool:
        """Whether `url` was set. A process that only reads the store needs none."""
        return "url" in self.model_fields_set

    def store_url(self) -> str:
        """Return the store's address: `store`, else in memory with `memory://`, else a file in the home directory."""
        if self.store:
            return self.store
        if self.in_memory:
            return "sqlite://"
        return f"sqlite:///{Path.home() / '.local' / 'share' / 'broker_jobs' / 'store.db'}"

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Make the settings from arguments (None: not given) and the environment.

        Raises:
            OptionError: names the setting, what is wrong and, for an unknown setting, a similar name.
        """
        known = {name: value for name, value in given.items() if value is not None}
        for name in known:
            if name not in cls.model_fields:
                raise OptionError(f"there is no setting {name!r}{nearest(name, cls.model_fields)}")
        try:
            return cls(**known)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "queue_limits"  # the only rule about two settings
            origin = "" if name in known else f" (environment {PREFIX}{name.upper()})"
            raise OptionError(f"setting {name}{origin}: {first['msg'].removeprefix('Value error, ')}") from None


def unknown_environment(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each `BROKER_JOBS_*` variable that is not a setting, with a similar name."""
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    return [
        f"environment variable {name} is not a setting{nearest(name, names)}"
        for name in environ
        if name.startswith(PREFIX) and name not in names and not name.startswith(PREFIX + "TEST")
    ]
