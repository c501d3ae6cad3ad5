"""Prints RabbitMQ's definitions: exchanges, queues, one user per role, and their permissions.

    python deploy/rabbitmq/definitions.py --passwords                        # new random passwords, as lines for .env
    python deploy/rabbitmq/definitions.py -Q default,mail > definitions.json # with the passwords of the environment
    rabbitmqctl import_definitions definitions.json

Passwords are read from PASSWORD_PRODUCER, PASSWORD_WORKER and so on; only their salted hashes are printed. Without its
variable a user gets an empty hash, with which no login is possible. definitions.json in this folder is the output for
the queue `default` without passwords. The program needs broker_jobs only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker_jobs.broker.names import is_queue_name
from broker_jobs.broker.topology import Topology, fixed_topology, work_topology

VHOST = "jobs"
SALT_BYTES = 4
NOTHING = "^$"
OWN_QUEUES = r"^jobs\.v1\.reply\."
"""Private queues of a process, for replies and broadcasts: exclusive, and with random names."""


@dataclass(frozen=True)
class Role:
    """The permissions of a user: regular expressions for the names it may configure, write and read."""

    configure: str
    write: str
    read: str
    tags: tuple[str, ...] = ()


def _only(*names: str) -> str:
    return rf"^jobs\.v1\.({'|'.join(names)})$"


# Who may write to which exchange decides what the coordinator believes of them: broker_jobs/broker/roles.py.
ROLES = {
    # For people: declares queues (`broker-jobs topology apply`) and checks them (`broker-jobs doctor`).
    "admin": Role(r"^jobs\.v1\.", r"^(amq\.default|jobs\.v1\..*)$", r"^jobs\.v1\."),
    # Replies are published to the default exchange.
    "coordinator": Role(
        OWN_QUEUES,
        r"^(amq\.default|jobs\.v1\.(work|delay|tick|control|reply\..*))$",
        _only("log", "command", "due", "dead", "control", r"reply\..*"),
    ),
    "producer": Role(OWN_QUEUES, _only("submit", "offer", "request"), OWN_QUEUES),
    # Binding a queue needs write on the queue and read on the exchange.
    "worker": Role(
        OWN_QUEUES, _only("report", "declare", "dead", r"reply\..*"), _only(r"work\..*", "control", r"reply\..*")
    ),
    # For workers whose jobs enqueue jobs.
    "worker-producer": Role(
        OWN_QUEUES,
        _only("submit", "offer", "request", "report", "declare", "dead", r"reply\..*"),
        _only(r"work\..*", "control", r"reply\..*"),
    ),
    "beat": Role(OWN_QUEUES, _only("declare", "fire", r"reply\..*"), _only("control", r"reply\..*")),
    # Sends commands, also to run a job from a form. People at the command line need the same.
    "dashboard": Role(OWN_QUEUES, _only("request", "operate"), OWN_QUEUES),
    # Reads queue lengths through the management API, for Prometheus and KEDA.
    "monitoring": Role(NOTHING, NOTHING, NOTHING, ("monitoring",)),
}


def variable(role: str) -> str:
    """The environment variable that holds a role's password."""
    return f"PASSWORD_{role.upper().replace('-', '_')}"


def password_hash(password: str) -> str:
    """A password as RabbitMQ keeps it: salt and SHA-256 of salt and password, in base64."""
    salt = secrets.token_bytes(SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(queues: Sequence[str], passwords: Mapping[str, str]) -> dict[str, Any]:
    """What RabbitMQ imports. `passwords` is by variable, as the environment has them."""
    fixed, work = fixed_topology(), work_topology(*queues)
    topology = Topology(fixed.exchanges, fixed.queues + work.queues, fixed.bindings + work.bindings)
    return {
        "vhosts": [{"name": VHOST, "default_queue_type": "quorum"}],
        "users": [_user(name, role, passwords.get(variable(name), "")) for name, role in ROLES.items()],
        "permissions": [
            {"user": name, "vhost": VHOST, "configure": role.configure, "write": role.write, "read": role.read}
            for name, role in ROLES.items()
        ],
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": VHOST,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "internal": exchange.internal,
                "arguments": {} if exchange.alternate is None else {"alternate-exchange": exchange.alternate},
            }
            for exchange in topology.exchanges
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": VHOST,
                "durable": True,
                "auto_delete": False,
                "arguments": queue.arguments(),
            }
            for queue in topology.queues
        ],
        "bindings": [
            {
                "source": binding.source,
                "vhost": VHOST,
                "destination": binding.target,
                "destination_type": "exchange" if binding.to_exchange else "queue",
                "routing_key": binding.key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }


def _user(name: str, role: Role, password: str) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": password_hash(password) if password else "",
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": list(role.tags),
        "limits": {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Print RabbitMQ's definitions for broker_jobs.")
    parser.add_argument("-Q", "--queues", default="default", help="queues of jobs, comma-separated (default: default)")
    parser.add_argument("-o", "--output", type=Path, help="write them there instead of printing them")
    parser.add_argument("--passwords", action="store_true", help="print new random passwords instead, for .env")
    given = parser.parse_args()
    if given.passwords:
        for role in ROLES:
            print(f"{variable(role)}={secrets.token_urlsafe(24)}")
        return
    queues = [queue.strip() for queue in given.queues.split(",") if queue.strip()]
    if wrong := [queue for queue in queues if not is_queue_name(queue)]:
        parser.error(f"{wrong[0]!r} is no name of a queue")
    if missing := [variable(role) for role in ROLES if not os.environ.get(variable(role))]:
        print(f"no password in {', '.join(missing)}: these users cannot log in", file=sys.stderr)
    text = json.dumps(definitions(queues, os.environ), indent=1) + "\n"
    if given.output is None:
        sys.stdout.write(text)
        return
    given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
