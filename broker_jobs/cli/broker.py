"""The commands about what stands on the broker: topology show and apply, and the schema of the wire format."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker_jobs.broker.topology import Topology, fixed_topology, work_topology
from broker_jobs.cli.connections import connected
from broker_jobs.cli.options import AsJson, Url, given_of
from broker_jobs.cli.output import print_json, print_table
from broker_jobs.messages.envelope import schema as envelope_schema
from broker_jobs.settings import Settings

app = typer.Typer(help="Show or declare what we need on RabbitMQ.", no_args_is_help=True, rich_markup_mode=None)

Queues = Annotated[
    str | None, typer.Option("--queues", "-Q", help="Work queues, comma-separated.", show_default="default")
]


@app.command("show")
def show(queues: Queues = None, as_json: AsJson = False) -> None:
    """Print every exchange, queue and binding, for an admin who declares them himself. Connects to nothing."""
    settings = Settings.load(**given_of(queues=queues))
    whole = [fixed_topology(), work_topology(*settings.queues)]
    if as_json:
        print_json(_as_definitions(whole))
        return
    rows: list[tuple[object, ...]] = []
    for part in whole:
        rows += [
            ("exchange", e.name, e.kind, f"alternate-exchange={e.alternate}" if e.alternate else "")
            for e in part.exchanges
        ]
        rows += [
            ("queue", q.name, "quorum", " ".join(f"{k}={v}" for k, v in q.arguments().items() if k != "x-queue-type"))
            for q in part.queues
        ]
        rows += [
            ("binding", b.source, "exchange" if b.to_exchange else "queue", f"{b.target} key={b.key!r}")
            for b in part.bindings
        ]
    print_table(("what", "name", "kind", "arguments"), rows)


@app.command("apply")
def apply(queues: Queues = None, url: Url = None) -> None:
    """Declare all of it. Harmless when it stands; says so when something stands with other arguments."""
    settings = Settings.load(**given_of(queues=queues, url=url))
    with connected(settings, "topology apply") as exchange:
        exchange.apply(fixed_topology())
        exchange.apply(work_topology(*settings.queues))
    typer.echo("declared")


def schema() -> None:
    """Print the wire format's JSON Schema."""
    print_json(envelope_schema())


def _as_definitions(parts: list[Topology]) -> dict[str, list[dict[str, Any]]]:
    """The shape of RabbitMQ's definitions file."""
    return {
        "exchanges": [
            {
                "name": exchange.name,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "arguments": {"alternate-exchange": exchange.alternate} if exchange.alternate else {},
            }
            for part in parts
            for exchange in part.exchanges
        ],
        "queues": [
            {"name": queue.name, "durable": True, "auto_delete": False, "arguments": queue.arguments()}
            for part in parts
            for queue in part.queues
        ],
        "bindings": [
            {
                "source": binding.source,
                "destination": binding.target,
                "destination_type": "exchange" if binding.to_exchange else "queue",
                "routing_key": binding.key,
                "arguments": {},
            }
            for part in parts
            for binding in part.bindings
        ],
    }
