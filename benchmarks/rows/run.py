"""Measures empty jobs through one worker: the queue is filled while the worker is stopped by SIGSTOP."""

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
from benchmarks.harness import Harness, Sandbox, wait_for
from benchmarks.libraries import workers
from benchmarks.libraries.workers import Worker
from broker_jobs.broker import names


def run(harness: Harness) -> Row:
    """Jobs a second until the queue is empty. Ours: outcomes confirmed in the log before each acknowledgement."""
    row = Row("Run empty jobs, one worker")
    for worker in workers.FEW if harness.scale.quick else workers.ALL:
        rates: list[float] = []
        cpu: list[float] = []
        with harness.sandbox() as sandbox:
            template = _template(sandbox, worker)
            process = worker.start(sandbox)
            count = harness.scale.of(worker.jobs)
            seen = {"idle": meter.memory(process.pid)}
            for _ in range(harness.scale.rounds):
                process.freeze()
                sandbox.fill(worker.queue, _copies(template, count))
                used = meter.cpu_seconds(process.pid)
                start = time.perf_counter()
                process.thaw()
                rates.append(count / (sandbox.drained(worker.queue) - start))
                cpu.append((meter.cpu_seconds(process.pid) - used) / count * 1e6)
                seen["busy"] = max(seen.get("busy", seen["idle"]), meter.memory(process.pid))
                if worker.library == "ours":
                    sandbox.purge(names.LOG)
            harness.memory[worker.name] = seen
        note = f"{median(cpu):.0f} us of processor a job"
        row.add(Figure("empty jobs", worker.name, worker.library, "/s", tuple(rates), note=note))
    return row


def _template(sandbox: Sandbox, worker: Worker) -> tuple[bytes, pika.BasicProperties]:
    """A message made by the library itself."""
    if worker.library == "bare":
        return bare.BODY, bare.PERSISTENT
    if worker.library == "ours":  # the worker makes its queue; till then a producer's first job would be dead-lettered
        sandbox.start("broker_jobs.cli", "topology", "apply")
        wait_for(lambda: sandbox.exists(worker.queue), worker.queue)
    sandbox.run("publish_one", library=worker.connection, seconds=0.0, count=1)
    template = sandbox.take_one(worker.queue)
    sandbox.purge(worker.queue)
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
