"""Runs what the files of deploy/ say, as it stands there, on servers of the tests' own.

Only what is of another machine is put in the place of theirs: names of hosts, ports, folders, passwords.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from broker_jobs import BrokerJobs
from tests.acceptance.conftest import Running
from tests.support.postgres import Postgres
from tests.support.process import Lodging, free_port
from tests.support.shipped import ROOT, ShippedBroker
from tests.support.wait import eventually

BIN = Path(sys.executable).parent
APP_FOLDER = ROOT / "deploy" / "app"
HEALTHY = ROOT / "deploy" / "healthy.py"


def dotenv(file: Path) -> dict[str, str]:
    """The variables of a file of NAME=value lines."""
    lines = (line.strip() for line in file.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """A text with ${NAME}, ${NAME:-default} and ${NAME:?message} filled in, as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found["name"], found["kind"], found["rest"]
        known = environment.get(name, "")
        if not known and kind == ":?":
            raise AssertionError(f"{name}: {rest}")
        return known or (rest if kind == ":-" else "")

    return re.sub(r"\$\{(?P<name>\w+)(?P<kind>:[-?])?(?P<rest>[^}]*)\}", value, text)


class Part:
    """One process of the stage, and where it says how it is."""

    def __init__(self, running: Running, port: int) -> None:
        self.running = running
        self.port = port

    def check(self) -> subprocess.CompletedProcess[str]:
        """Ask by the health check that the image has."""
        command = [sys.executable, str(HEALTHY), str(self.port)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)

    def healthy(self) -> None:
        """Wait until it is."""

        def well() -> bool:
            assert self.running.process.poll() is None, self.running.log
            done = self.check()
            assert done.returncode == 0, done.stdout
            return True

        eventually(well, 120, f"healthy:\n{self.running.log}", poll=0.2)


class Stage:
    """Servers, and the processes that a test starts on them."""

    def __init__(self, broker: ShippedBroker, postgres: Postgres) -> None:
        self.broker = broker
        self._postgres = postgres
        self._lodging = Lodging("stage")
        self.folder = self._lodging.folder
        self.database = postgres.create_database()
        self._count = 0
        # The owner of one database, as compose makes it, and no more.
        self.sql(f'CREATE ROLE broker_jobs LOGIN; ALTER DATABASE "{self.database}" OWNER TO broker_jobs')

    def close(self) -> None:
        """End all processes and remove what they have written."""
        self._lodging.close()
        self._postgres.drop_database(self.database)
        self.sql("DROP ROLE IF EXISTS broker_jobs, dashboard", "postgres")

    def sql(self, statements: str, database: str = "") -> None:
        """Run statements as the superuser."""
        url = self._postgres.url(database or self.database).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statements.encode())

    def here(self, text: str) -> str:
        """A value of an environment with our servers in the place of its own."""
        if found := re.match(r"amqp://([\w-]+):[^@]+@rabbitmq(\.example\.com)?:5672/jobs$", text):
            return self.broker.address(found[1])
        if found := re.match(r"postgresql\+psycopg://(\w+):[^@]+@postgres(\.example\.com|:5432)/broker_jobs$", text):
            return f"postgresql+psycopg://{found[1]}:any@127.0.0.1:{self._postgres.port}/{self.database}"
        assert "://" not in text, f"an address of another machine: {text}"
        return text

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, dashboard: bool = False) -> Part:
        """Start a process of ours, on a free port."""
        self._count += 1
        port = free_port()
        env = {name: self.here(value) for name, value in environment.items()}
        words = list(command)
        if dashboard:
            words[words.index("8700")] = str(port)
        env["BROKER_JOBS_METRICS_PORT"] = str(free_port() if dashboard else port)
        log = self.folder / f"{self._count}.log"
        own = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_JOBS_")}
        # The folder that the process runs in is the application's, as WorkingDirectory= and WORKDIR say.
        process = self._lodging.start(
            ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(APP_FOLDER), *words],
            log=log,
            env=own | env | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        return Part(Running(process, log), port)

    def producer(self) -> BrokerJobs:
        """A program that enqueues with the producer's rights."""
        jobs = BrokerJobs(self.broker.address("producer"))
        jobs.configure({"declare": False})
        return jobs
