"""Empty jobs through one worker: the queue is filled while the worker is frozen, then it is let go."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from copy import copy
from statistics import median
from typing import Any

import pika

from benchmarks import bare, meter
from benchmarks.figure import Figure, Row
from benchmarks.sides import workers
from benchmarks.sides.workers import Worker
from benchmarks.stage import Corner, Stage, wait_for
from broker_jobs.broker import names


def run(stage: Stage) -> Row:
    """Jobs a second until the queue is empty. Ours: outcomes confirmed in the log before each acknowledgement."""
    row = Row("Run empty jobs, one worker")
    for worker in workers.FEW if stage.scale.quick else workers.ALL:
        rates: list[float] = []
        cpu: list[float] = []
        with stage.corner() as corner:
            template = _template(corner, worker)
            process = worker.start(corner)
            count = stage.scale.of(worker.jobs)
            seen = {"idle": meter.memory(process.pid)}
            for _ in range(stage.scale.rounds):
                process.freeze()
                corner.fill(worker.queue, _copies(template, count))
                used = meter.cpu_seconds(process.pid)
                start = time.perf_counter()
                process.thaw()
                rates.append(count / (corner.drained(worker.queue) - start))
                cpu.append((meter.cpu_seconds(process.pid) - used) / count * 1e6)
                seen["busy"] = max(seen.get("busy", seen["idle"]), meter.memory(process.pid))
                if worker.side == "ours":
                    corner.purge(names.LOG)
            stage.memory[worker.name] = seen
        note = f"{median(cpu):.0f} us of processor a job"
        row.add(Figure("empty jobs", worker.name, worker.side, "/s", tuple(rates), note=note))
    return row


def _template(corner: Corner, worker: Worker) -> tuple[bytes, pika.BasicProperties]:
    """A message as the library itself makes it."""
    if worker.side == "bare":
        return bare.BODY, bare.PERSISTENT
    if worker.side == "ours":  # the worker makes its queue; till then a producer's first job would be dead-lettered
        corner.start("broker_jobs.cli", "topology", "apply")
        wait_for(lambda: corner.exists(worker.queue), worker.queue)
    corner.run("publish_one", side=worker.connection, seconds=0.0, count=1)
    template = corner.take_one(worker.queue)
    corner.purge(worker.queue)
    return template


def _copies(template: tuple[bytes, pika.BasicProperties], count: int) -> Iterator[tuple[bytes, pika.BasicProperties]]:
    """The same job again and again, each with an id of its own."""
    body, properties = template
    old = _id_of(body, properties).encode()
    headers: dict[str, Any] = dict(properties.headers or {})
    texts = {name: value for name, value in headers.items() if isinstance(value, str) and old.decode() in value}
    for _ in range(count):
        new = str(uuid.uuid4())
        each = copy(properties)
        each.headers = headers | {name: value.replace(old.decode(), new) for name, value in texts.items()}
        for name in ("message_id", "correlation_id"):
            if getattr(each, name) == old.decode():
                setattr(each, name, new)
        yield body.replace(old, new.encode()), each


def _id_of(body: bytes, properties: pika.BasicProperties) -> str:
    headers = properties.headers or {}
    if "id" in headers:  # Celery
        return str(headers["id"])
    try:
        fields = json.loads(body)
    except ValueError:
        return str(properties.message_id)
    return str(fields.get("id") or fields.get("message_id") or fields.get("task_id"))
