"""Gives a command about all jobs that a filter means, and stays until the coordinator has worked it off."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import typer

from broker_jobs.cli.connections import commanding
from broker_jobs.cli.options import settings_of
from broker_jobs.cli.output import read_moment
from broker_jobs.errors import UsageError, nearest
from broker_jobs.messages.commands import BulkDelete, BulkRequeue, JobFilter
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.state import State
from broker_jobs.producer.failure import worked_off


def meant(**options: str | None) -> dict[str, Any]:
    """The fields of a filter that options give; moments are seconds ago, or instants.

    Raises:
        UsageError: an unknown state.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if (state := given.get("state")) is not None and state not in list(State):
        raise UsageError(f"no state {state!r}{nearest(state, list(State))}; states are {', '.join(State)}")
    for name in ("created_after", "created_before"):
        if name in given:
            at = read_moment(given[name])
            given[name] = at.timestamp() if isinstance(at, datetime) else time.time() - at
    return given


def bulk(
    kind: type[BulkDelete] | type[BulkRequeue],
    given: dict[str, Any],
    verb: str,
    usual: str,
    *,
    yes: bool,
    url: str | None,
) -> None:
    """Ask the person, give the command, and say how far it is until it is done.

    Args:
        kind: of command.
        given: the filter's fields.
        verb: what it does, for the question.
        usual: the states that are meant.
        yes: do not ask.
        url: of the broker.
    """
    settings = settings_of(url=url)
    if not yes:
        chosen = "".join(f", {name} {value}" for name, value in given.items() if name != "state")
        typer.confirm(f"{verb} {usual}{chosen}: all of them?", abort=True)
    with commanding(settings) as requests:
        command = kind(id=new_id(), at=requests.now(), by=requests.by, filter=JobFilter.model_validate(given))
        detail = worked_off(requests, command)
    refused = f", {detail['refused']} refused" if detail["refused"] else ""
    typer.echo(f"{detail['done']} {verb.lower()}d{refused}")
