"""What the children of a pool do in its tests; found by import in the spawned processes."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from broker_jobs import metrics as m
from broker_jobs.processes.pool import Refused
from broker_jobs.processes.program import Health


def obedient(folder: str, slot: str, pipe: Connection) -> None:
    """Reports once, and leaves when told, at once or after the file `finish` is there."""
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
    """Hears nothing."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    time.sleep(60)


def misconfigured(folder: str, slot: str, pipe: Connection) -> None:
    """Cannot start whoever starts it, and says so."""
    pipe.send(Refused("no such queue"))


def leaving_with_two(folder: str, slot: str, pipe: Connection) -> None:
    """Is killed by a job that calls exit(2), before its first report."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    os._exit(2)


def refusing_the_second(folder: str, slot: str, pipe: Connection) -> None:
    """Is healthy the first time, and dies; cannot start after that."""
    first = not list(Path(folder).glob("*.slot"))
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    if not first:
        pipe.send(Refused("the code on the disk is half written"))
        return
    pipe.send((m.Snapshot(), Health(True)))
    os._exit(2)


def crashing(folder: str, slot: str, pipe: Connection) -> None:
    """Dies at once."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(slot)
    os._exit(77)
