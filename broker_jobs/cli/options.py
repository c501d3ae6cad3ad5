"""Describes the options that several commands share, and makes settings of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker_jobs.errors import OptionError
from broker_jobs.settings import Settings

Url = Annotated[
    str | None, typer.Option("--url", help="amqp://user:password@host:5672/vhost, or memory://.", show_default=False)
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="sqlite:///path or postgresql+psycopg://user:password@host/db.", show_default=False),
]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.", show_default="INFO")
]
MetricsPort = Annotated[
    int | None,
    typer.Option("--metrics-port", help="Serve /metrics and /healthz here; 0: a free port.", show_default="off"),
]
MetricsHost = Annotated[
    str | None, typer.Option("--metrics-host", help="Address of /metrics and /healthz.", show_default="127.0.0.1")
]
ShutdownTimeout = Annotated[
    float | None,
    typer.Option("--shutdown-timeout", help="Seconds running jobs get after the first signal.", show_default="30"),
]
Queues = Annotated[
    str | None, typer.Option("--queues", "-Q", help="Queues to serve, comma-separated.", show_default="default")
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", help="Jobs at once in one process.", show_default="16")
]
Declare = Annotated[
    bool | None,
    typer.Option("--declare/--no-declare", help="Declare queues; off where an admin has.", show_default="declare"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any other setting, e.g. --set prefetch_max=50.", show_default=False
    ),
]


def given_of(queues: str | None = None, more: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """The settings that the command line gives: options that are not None, and `--set`.

    Raises:
        OptionError: a `--set` without a value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if queues is not None:
        given["queues"] = tuple(queue.strip() for queue in queues.split(",") if queue.strip())
    for setting in more or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting}: write --set name=value")
        name = name.strip().replace("-", "_")
        given[name] = tuple(value.split(",")) if name in {"queues", "mask"} else value
    return given


def settings_of(more: list[str] | None = None, **options: Any) -> Settings:
    """The settings from options, `--set` and the environment.

    Raises:
        OptionError: an unknown setting or a value that does not fit.
    """
    return Settings.load(**given_of(more=more, **options))
