"""Sends a command about all jobs that match a filter, and waits until the coordinator has finished it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import typer

from broker_jobs.cli.connections import open_request_client
from broker_jobs.cli.options import load_settings
from broker_jobs.cli.output import read_moment
from broker_jobs.errors import UsageError, nearest
from broker_jobs.messages.commands import BulkDelete, BulkFail, BulkRequeue, JobFilter
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.state import State
from broker_jobs.producer.failures import run_bulk_command

PAST = {"Delete": "deleted", "Requeue": "requeued", "Fail": "failed"}


def filter_fields(**options: str | None) -> dict[str, Any]:
    """The fields of a filter that options give; times are seconds ago, or instants.

    Raises:
        UsageError: an unknown state.
    """
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if (state := fields.get("state")) is not None and state not in list(State):
        raise UsageError(f"unknown state {state!r}{nearest(state, list(State)) or '.'} States: {', '.join(State)}")
    for name in ("created_after", "created_before"):
        if name in fields:
            at = read_moment(fields[name])
            fields[name] = at.timestamp() if isinstance(at, datetime) else time.time() - at
    return fields


def run_bulk(
    command_type: type[BulkDelete] | type[BulkRequeue] | type[BulkFail],
    fields: dict[str, Any],
    verb: str,
    states: str,
    *,
    yes: bool,
    url: str | None,
) -> None:
    """Ask for confirmation, send the command, wait until it is done, and print how many jobs it changed.

    Args:
        command_type: the command to send.
        fields: the fields of the filter.
        verb: "Delete", "Requeue" or "Fail", for the question.
        states: the states of the jobs that match, for the question.
        yes: do not ask.
        url: of the broker.
    """
    settings = load_settings(url=url)
    if not yes:
        chosen = "".join(f", {name} {value}" for name, value in fields.items() if name != "state")
        typer.confirm(f"{verb} all jobs that match: {states}{chosen}?", abort=True)
    with open_request_client(settings) as requests:
        command = command_type(id=new_id(), at=requests.now(), by=requests.by, filter=JobFilter.model_validate(fields))
        detail = run_bulk_command(requests, command)
    refused = f", {detail['refused']} refused" if detail["refused"] else ""
    typer.echo(f"{detail['done']} {PAST[verb]}{refused}")
