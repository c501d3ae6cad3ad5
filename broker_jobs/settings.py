"""Holds every setting, validated once; the environment (`BROKER_JOBS_*`), the program and the command line fill it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.errors import OptionError, nearest

PREFIX = "BROKER_JOBS_"
MAX_QUEUES = 1_000
"""A worker's heartbeat names its queues, and has no room for more."""
MASK = (
    *("password", "passwd", "passphrase", "secret", "token", "api_key", "authorization", "cookie"),
    *("credential", "private_key", "card", "cvv", "cvc", "iban", "ssn"),
)
"""Names of what is usually secret; see `dashboard/masking.py` for how they are looked for."""


class Settings(BaseSettings):
    """All settings of one process. Lengths of time are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    url: str = Field(default="memory://", description="amqp://, amqps:// (several: comma-separated) or memory://")
    store: str = Field(default="", description="sqlite:///path or postgresql+psycopg://…; empty: see store_url()")
    declare: bool = Field(default=True, description="declare queues at start; off where an admin has declared them")
    publish_timeout: float = Field(default=10.0, gt=0, le=600, description="how long an enqueue waits for its confirm")
    max_body: int = Field(default=256 * 1024, ge=1024, le=8 * 1024 * 1024, description="bytes an envelope may have")
    heartbeat: int = Field(default=20, ge=5, le=600, description="AMQP heartbeat")
    queues: tuple[str, ...] = Field(default=("default",), description="queues a worker serves, the preferred first")
    concurrency: int = Field(default=16, ge=1, le=10_000, description="jobs a worker process runs at once")
    processes: int = Field(default=1, ge=1, le=1024, description="worker processes")
    prefetch_max: int = Field(default=1_500, ge=1, le=65_535, description="the most deliveries a queue has out here")
    worker_heartbeat: float = Field(default=5.0, gt=0, le=10, description="between heartbeats of a worker")
    handover_after: float = Field(default=60.0, gt=0, description="a longer run is handed over to the coordinator")
    shutdown_timeout: float = Field(default=30.0, ge=0, description="how long a first signal waits for running jobs")
    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics and /healthz")
    metrics_port: int | None = Field(default=None, ge=0, le=65_535, description="port of /metrics; 0: any; None: off")
    dashboard_host: str = Field(default="127.0.0.1", description="address of the dashboard; another needs a login")
    dashboard_port: int | None = Field(
        default=None, ge=0, le=65_535, description="port of the dashboard; 0: any; None: 8700, and off in `run`"
    )
    dashboard_token: str = Field(default="", repr=False, description="opens the dashboard, and its API as a bearer's")
    dashboard_user: str = Field(default="", description="who may log in to the dashboard")
    dashboard_password: str = Field(default="", repr=False, description="with what")
    dashboard_read_only: bool = Field(default=False, description="nobody can change anything in the dashboard")
    dashboard_title: str = Field(default="broker_jobs", description="what the dashboard calls itself")
    dashboard_path: str = Field(default="", description="path a proxy serves the dashboard below, as /jobs")
    keep_succeeded: float = Field(default=7 * 86400.0, gt=0, description="how long succeeded jobs are kept")
    keep_deleted: float = Field(default=7 * 86400.0, gt=0, description="how long deleted jobs are kept")
    keep_failed: float = Field(default=90 * 86400.0, gt=0, description="how long failed jobs are kept")
    mask: tuple[str, ...] = Field(default=MASK, description="names of arguments that are not shown, as a word in them")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("queues")
    @classmethod
    def _queue_names(cls, queues: tuple[str, ...]) -> tuple[str, ...]:
        for queue in queues:
            if not is_queue_name(queue):
                raise ValueError(f"{queue!r} is no queue name: {QUEUE_NAME_RULE}")
        if len(queues) > MAX_QUEUES:
            raise ValueError(f"at most {MAX_QUEUES:_} queues, not {len(queues):_}: let jobs share queues")
        if len(set(queues)) != len(queues):
            raise ValueError("a queue is named twice")
        return queues

    @field_validator("url")
    @classmethod
    def _exchange_url(cls, url: str) -> str:
        for part in url.split(","):
            scheme = urlsplit(part.strip()).scheme
            if scheme not in {"amqp", "amqps", "memory"}:
                raise ValueError(
                    f"{mask(part)!r} is no broker address; write amqp://user:password@host:5672/vhost or memory://"
                )
        return url

    @field_validator("dashboard_path")
    @classmethod
    def _path(cls, path: str) -> str:
        trimmed = path.rstrip("/")
        if trimmed and (not trimmed.startswith("/") or "//" in trimmed or not trimmed.isprintable()):
            raise ValueError(f"{path!r} is no path: write it as /jobs")
        return trimmed

    @property
    def embedded(self) -> bool:
        """Whether the exchange lives in this process alone."""
        return self.url.startswith("memory://")

    @property
    def names_broker(self) -> bool:
        """Whether the broker's address was given: who only reads a store may leave it out."""
        return "url" in self.model_fields_set

    def store_url(self) -> str:
        """The store's address: as set, else in memory if the exchange is embedded, else a file in the user's folder."""
        if self.store:
            return self.store
        if self.embedded:
            return "sqlite://"
        return f"sqlite:///{Path.home() / '.local' / 'share' / 'broker_jobs' / 'store.db'}"

    @classmethod
    def load(cls, **given: Any) -> Self:
        """The settings from arguments (None: not given) and the environment.

        Raises:
            OptionError: names the setting, what is wrong and, for an unknown one, the nearest right name.
        """
        known = {name: value for name, value in given.items() if value is not None}
        for name in known:
            if name not in cls.model_fields:
                raise OptionError(f"no setting {name!r}{nearest(name, cls.model_fields)}")
        try:
            return cls(**known)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            origin = "" if name in known else f" (environment {PREFIX}{name.upper()})"
            raise OptionError(f"setting {name}{origin}: {first['msg'].removeprefix('Value error, ')}") from None


def unknown_environment(environ: Mapping[str, str]) -> list[str]:
    """A warning for each `BROKER_JOBS_*` variable that is no setting, naming the nearest right one."""
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    return [
        f"environment {name} is no setting{nearest(name, names)}"
        for name in environ
        if name.startswith(PREFIX) and name not in names and not name.startswith(PREFIX + "TEST")
    ]


def mask(url: str) -> str:
    """An address without its password, for messages and logs."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)
