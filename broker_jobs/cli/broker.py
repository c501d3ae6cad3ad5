"""Commands about RabbitMQ: topology show and apply, and the JSON Schema of the wire format."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker_jobs.broker.topology import Topology, fixed_topology, work_topology
from broker_jobs.cli.connections import open_broker
from broker_jobs.cli.options import AsJson, Url, given_settings
from broker_jobs.cli.output import print_json, print_table
from broker_jobs.messages.envelope import schema as envelope_schema
from broker_jobs.settings import Settings

app = typer.Typer(
    help="Show or declare the exchanges, queues and bindings on RabbitMQ.", no_args_is_help=True, rich_markup_mode=None
)

Queues = Annotated[
    str | None, typer.Option("--queues", "-Q", help="Work queues, comma-separated.", show_default="default")
]


@app.command("show")
def show(queues: Queues = None, as_json: AsJson = False) -> None:
    """Print every exchange, queue and binding, for an administrator who declares them. Connects to nothing.

    --json prints the format of RabbitMQ's definitions file.
    """
    settings = Settings.load(**given_settings(queues=queues))
    topologies = [fixed_topology(), work_topology(*settings.queue_names)]
    if as_json:
        print_json(_as_definitions(topologies))
        return
    rows: list[tuple[object, ...]] = []
    for topology in topologies:
        rows += [
            ("exchange", e.name, e.kind, "internal" if e.internal else _alternate(e.alternate))
            for e in topology.exchanges
        ]
        rows += [
            ("queue", q.name, "quorum", " ".join(f"{k}={v}" for k, v in q.arguments().items() if k != "x-queue-type"))
            for q in topology.queues
        ]
        rows += [
            ("binding", b.source, "exchange" if b.to_exchange else "queue", f"{b.target} key={b.key!r}")
            for b in topology.bindings
        ]
    print_table(("what", "name", "kind", "arguments"), rows)


@app.command("apply")
def apply(queues: Queues = None, url: Url = None) -> None:
    """Declare every exchange, queue and binding. Safe to repeat; fails if one exists with other arguments."""
    settings = Settings.load(**given_settings(queues=queues, url=url))
    with open_broker(settings, "topology apply") as broker:
        broker.apply(fixed_topology())
        broker.apply(work_topology(*settings.queue_names))
    typer.echo("declared")


def schema() -> None:
    """Print the JSON Schema of an envelope, the message of a job."""
    print_json(envelope_schema())


def _alternate(exchange: str | None) -> str:
    return "" if exchange is None else f"alternate-exchange={exchange}"


def _as_definitions(topologies: list[Topology]) -> dict[str, list[dict[str, Any]]]:
    """Convert to the format of RabbitMQ's definitions file."""
    return {
        "exchanges": [
            {
                "name": exchange.name,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "internal": exchange.internal,
                "arguments": {"alternate-exchange": exchange.alternate} if exchange.alternate else {},
            }
            for topology in topologies
            for exchange in topology.exchanges
        ],
        "queues": [
            {"name": queue.name, "durable": True, "auto_delete": False, "arguments": queue.arguments()}
            for topology in topologies
            for queue in topology.queues
        ],
        "bindings": [
            {
                "source": binding.source,
                "destination": binding.target,
                "destination_type": "exchange" if binding.to_exchange else "queue",
                "routing_key": binding.key,
                "arguments": {},
            }
            for topology in topologies
            for binding in topology.bindings
        ],
    }
