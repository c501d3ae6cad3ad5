"""Runs the RabbitMQ that deploy/ describes: configuration, plugins, and definitions imported at its start."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pika

from tests.support.process import free_port
from tests.support.rabbitmq import Broker

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "rabbitmq"
VHOST = "jobs"


def passwords() -> dict[str, str]:
    """New passwords by environment variable, as the shipped program makes them."""
    return dict(line.split("=", 1) for line in _run("--passwords").splitlines())


def definitions(environment: dict[str, str], *arguments: str) -> str:
    """What the shipped program prints with these passwords."""
    return _run(*arguments, environment=environment)


def _run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, str(SHIPPED / "definitions.py"), *arguments]
    env = {"PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=60).stdout


class ShippedBroker(Broker):
    """The shipped RabbitMQ on ports of its own, on loopback. Nothing else of its configuration is changed."""

    def __init__(self, queues: str = "default") -> None:
        super().__init__()
        self.passwords = passwords()
        self.prometheus_port = free_port()
        self._queues = queues
        # It has no user guest; this one may look at everything.
        self.user, self.password = "monitoring", self.passwords["PASSWORD_MONITORING"]

    def address(self, role: str) -> str:
        """The AMQP address of a role's user."""
        return self.url(VHOST, role, self.passwords[f"PASSWORD_{role.upper().replace('-', '_')}"])

    def _configure(self) -> None:
        super()._configure()
        self.prometheus_port = free_port()
        here = self._installation.inside(self._folder)
        (self._folder / "definitions.json").write_text(definitions(self.passwords, "-Q", self._queues))
        text = (SHIPPED / "rabbitmq.conf").read_text()
        for key, value in {
            "listeners.tcp.default": f"127.0.0.1:{self.amqp_port}",
            "management.tcp.port": str(self.http_port),
            "prometheus.tcp.port": str(self.prometheus_port),
            "load_definitions": str(here / "definitions.json"),
        }.items():
            text, replaced = re.subn(rf"(?m)^{re.escape(key)} = .*$", f"{key} = {value}", text)
            assert replaced == 1, f"rabbitmq.conf has no {key}"
        # A chroot lacks the /proc that RabbitMQ would look at.
        text += "vm_memory_calculation_strategy = allocated\nlog.file.level = info\n"
        text += "management.tcp.ip = 127.0.0.1\nprometheus.tcp.ip = 127.0.0.1\n"
        (self._folder / "rabbitmq.conf").write_text(text)
        for name in ("advanced.config", "enabled_plugins"):
            (self._folder / name).write_text((SHIPPED / name).read_text())

    def whole_log(self) -> str:
        """All that the node has logged."""
        return "".join(path.read_text(errors="replace") for path in sorted((self._folder / "log").glob("*.log")))

    def scrape(self, path: str = "/metrics/per-object") -> str:
        """What the node tells Prometheus; by default of each queue."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus_port}{path}", timeout=20) as page:
            return str(page.read().decode())

    def import_users(self, users: object) -> None:
        """Import users by the node's own command."""
        file = self._folder / "users.json"
        file.write_text(json.dumps({"users": users}))
        self.ctl("import_definitions", str(self._installation.inside(file)))

    def empty(self) -> None:
        """Drop all messages: what one test leaves behind is not the next one's work."""
        connection = pika.BlockingConnection(pika.URLParameters(self.address("admin")))
        with connection:
            channel = connection.channel()
            for queue in self.http("GET", f"/queues/{VHOST}"):
                if not queue["exclusive"]:
                    channel.queue_purge(queue["name"])
