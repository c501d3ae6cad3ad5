"""The functions that the children of a pool run in its tests; spawned processes import them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from broker_jobs import metrics as m
from broker_jobs.processes.child import Leaving, Place, Report, StartRefused
from broker_jobs.processes.health import Health


def obedient(folder: str, place: Place) -> None:
    """Reports once, and stops when ordered: at once, or as soon as the file `finish` exists."""
    metrics = m.Metrics()
    metrics.count(m.RELEASES)
    metrics.set(m.IN_FLIGHT, 1)
    place.pipe.send(Report(metrics.snapshot(), Health(True, {"slot_name": place.slot})))
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    try:
        if place.pipe.recv() == "now":
            os._exit(9)
    except EOFError:
        (Path(folder) / f"{os.getpid()}.orphan").touch()
        return
    while not (Path(folder) / "finish").exists():
        time.sleep(0.01)
        if place.pipe.poll() and place.pipe.recv() == "now":
            os._exit(9)


def deaf(folder: str, place: Place) -> None:
    """Ignores every order."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    time.sleep(60)


def misconfigured(folder: str, place: Place) -> None:
    """Reports that it cannot start."""
    place.pipe.send(StartRefused("no such queue"))


def leaving_with_two(folder: str, place: Place) -> None:
    """Exits with code 2 before its first report, as by a job."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    os._exit(2)


def refusing_the_second(folder: str, place: Place) -> None:
    """Is healthy the first time, and exits; reports afterwards that it cannot start."""
    first = not list(Path(folder).glob("*.slot"))
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    if not first:
        place.pipe.send(StartRefused("the code on the disk is half written"))
        return
    place.pipe.send(Report(m.Snapshot(), Health(True)))
    os._exit(2)


def crashing(folder: str, place: Place) -> None:
    """Exits at once."""
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    os._exit(77)


def _report(place: Place) -> None:
    place.pipe.send(Report(m.Snapshot(), Health(True), queues=("default",)))


def silent(folder: str, place: Place) -> None:
    """Reports once, and never again; it runs the job that a file names."""
    _report(place)
    if (Path(folder) / "job").exists():
        place.board.begin("job-1", 3, time.time() - 5)
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    time.sleep(600)


def leaving(folder: str, place: Place) -> None:
    """The first one leaves, patiently or not as a file says, and runs a job until the file `finish` is there."""
    first = not list(Path(folder).glob("*.slot"))
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    place.board.begin("job-1", 1, time.time())
    if first:
        how = (Path(folder) / "leave").read_text()
        place.pipe.send(Leaving("it has run enough", patient=how == "patient"))
    while not (Path(folder) / "finish").exists():
        _report(place)
        if place.pipe.poll(0.1) and place.pipe.recv() == "now":
            os._exit(9)


def disconnected(folder: str, place: Place) -> None:
    """Reports that it is connected, all but the first one, and a connection of which RabbitMQ reads nothing."""
    metrics = m.Metrics()
    first = place.slot.endswith(".0")
    (Path(folder) / f"{os.getpid()}.slot").write_text(place.slot)
    metrics.set(m.CONNECTION_UP, 0 if first else 1, ("worker",))
    metrics.set(m.BLOCKED, 1 if first else 0, ("worker",))
    metrics.count(m.RECONNECTS, ("worker",), amount=2)
    place.pipe.send(Report(metrics.snapshot(), Health(not first, reasons=("not connected",) if first else ())))
    try:
        place.pipe.recv()
    except EOFError:
        return
