"""Puts the commands together, and prints an error of broker_jobs as one line on stderr with exit code 2."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from pydantic import ValidationError

from broker_jobs.cli import (
    batches,
    broker,
    dead_letters,
    demo,
    doctor,
    jobs,
    limits,
    queues,
    recurring,
    serve,
    store,
    subscriptions,
    workers,
)
from broker_jobs.cli.output import print_error
from broker_jobs.errors import BrokerJobsError
from broker_jobs.messages.codec import first_error

EXIT_USAGE = 2


app = typer.Typer(
    name="broker-jobs",
    help="Background jobs on RabbitMQ. Every setting is also an environment variable: --url is BROKER_JOBS_URL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"broker-jobs {version('broker-jobs')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run `broker-jobs COMMAND --help` for the options of a command."""
    del show_version


serve.add_to(app)
app.command("doctor")(doctor.doctor)
app.command("schema")(broker.schema)
app.command("demo")(demo.demo)
app.add_typer(broker.app, name="topology")
app.add_typer(jobs.app, name="jobs")
app.add_typer(batches.app, name="batches")
app.add_typer(recurring.app, name="recurring")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(queues.app, name="queues")
app.add_typer(limits.app, name="limits")
app.add_typer(workers.app, name="workers")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(store.app, name="store")


def main() -> None:
    """Run a command. An error of broker_jobs says what to do, so its traceback is left out."""
    try:
        app()
    except BrokerJobsError as error:
        print_error(str(error))
        sys.exit(EXIT_USAGE)
    except ValidationError as error:  # of an argument of the command: a name or a key that is too long
        wrong = first_error(error)
        print_error(f"{wrong.location}: {wrong.message}")
        sys.exit(EXIT_USAGE)
