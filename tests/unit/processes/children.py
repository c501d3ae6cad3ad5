"""The functions that the children of a pool run in its tests; spawned processes import them."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from broker_jobs import metrics as m
from broker_jobs.processes.pool import StartRefused
from broker_jobs.processes.program import Health


def obedient(folder: str, slot: str, pipe: Connection) -> None:
    """Reports once, and stops when ordered: at once, or as soon as the file `finish` exists."""
    metrics = m.Metrics()
    metrics.count(m.RELEASES)
    metrics.set(m.IN_FLIGHT, 1)
    pipe.send((metrics.snapshot(), Health(True, {"slot_name": slot})))
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    try:
        if pipe.recv() == "now":
            os._exit(9)
    except EOFError:
        (Path(folder) / f"{os.getpid()}.orphan").touch()
        return
    while not (Path(folder) / "finish").exists():
        time.sleep(0.01)
        if pipe.poll() and pipe.recv() == "now":
            os._exit(9)


def deaf(folder: str, slot: str, pipe: Connection) -> None:
    """Ignores every order."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    time.sleep(60)


def misconfigured(folder: str, slot: str, pipe: Connection) -> None:
    """Reports that it cannot start."""
    pipe.send(StartRefused("no such queue"))


def leaving_with_two(folder: str, slot: str, pipe: Connection) -> None:
    """Exits with code 2 before its first report, as by a job."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    os._exit(2)


def refusing_the_second(folder: str, slot: str, pipe: Connection) -> None:
    """Is healthy the first time, and exits; reports afterwards that it cannot start."""
    first = not list(Path(folder).glob("*.slot"))
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    if not first:
        pipe.send(StartRefused("the code on the disk is half written"))
        return
    pipe.send((m.Snapshot(), Health(True)))
    os._exit(2)


def crashing(folder: str, slot: str, pipe: Connection) -> None:
    """Exits at once."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    os._exit(77)
