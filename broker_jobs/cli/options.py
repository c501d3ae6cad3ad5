"""Defines the options that several commands share, and loads settings from them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker_jobs.errors import OptionError
from broker_jobs.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The broker: amqp://user:password@host:5672/vhost, or memory://.",
        show_default="BROKER_JOBS_URL, else memory://",
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store: sqlite:///path or postgresql+psycopg://user:password@host/db.",
        show_default="BROKER_JOBS_STORE, else a file in the home directory, or memory with memory://",
    ),
]
Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        help="The name of the program; its recurring jobs and subscriptions belong to it.",
        show_default="BROKER_JOBS_SERVICE, else as in the code",
    ),
]
Unmasked = Annotated[bool, typer.Option("--unmasked", help="Show secrets too, which are masked otherwise.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="List at most this many.")]
ErrorText = Annotated[
    str | None, typer.Option("--error", help="Only jobs with this text in reason or error.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.", show_default="INFO")
]
LogFormat = Annotated[
    str | None,
    typer.Option("--log-format", help="text, or json: one JSON object on a line.", show_default="text"),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", help="Port on which to serve /metrics and /healthz; 0: a free port.", show_default="off"
    ),
]
MetricsHost = Annotated[
    str | None,
    typer.Option("--metrics-host", help="Address to listen on for /metrics and /healthz.", show_default="127.0.0.1"),
]
ShutdownTimeout = Annotated[
    float | None,
    typer.Option(
        "--shutdown-timeout", help="Seconds that running jobs get to finish after the first signal.", show_default="30"
    ),
]
Queues = Annotated[
    str | None,
    typer.Option(
        "--queues",
        "-Q",
        help="Queues to serve, preferred first: mail,bulk. With weights: mail:3,bulk:1. Not given: default; of `run` "
        "all that the code declares.",
        show_default=False,
    ),
]
QueueLimits = Annotated[
    list[str] | None,
    typer.Option(
        "--queue-limit",
        metavar="QUEUE=NUMBER",
        help="Jobs of a queue at once per process: bulk=2; repeatable.",
        show_default="none",
    ),
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", help="Jobs at once per process.", show_default="16")
]
MaxJobs = Annotated[
    int | None,
    typer.Option(
        "--max-jobs", min=1, help="Replace a process by a fresh one after so many jobs.", show_default="no limit"
    ),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        "--max-memory",
        min=1,
        help="Replace a process by a fresh one after its running jobs when it takes more than so many MiB.",
        show_default="no limit",
    ),
]
Declare = Annotated[
    bool | None,
    typer.Option(
        "--declare/--no-declare",
        help="Declare exchanges and queues at start; turn it off if an administrator declares them.",
        show_default="declare",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, such as --set prefetch_max=50; repeatable.",
        show_default=False,
    ),
]


def given_settings(more: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """The settings given on the command line: options that are not None, and `--set`.

    Raises:
        OptionError: a `--set` without a value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for setting in more or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting}: write --set name=value")
        given[name.strip().replace("-", "_")] = value
    return given


def load_settings(more: list[str] | None = None, **options: Any) -> Settings:
    """The settings from options, `--set` and the environment.

    Raises:
        OptionError: an unknown setting or an invalid value.
    """
    return Settings.load(**given_settings(more=more, **options))
