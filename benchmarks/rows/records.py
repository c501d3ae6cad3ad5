"""Measures the coordinator's engine on deliveries of the log, without a broker, in a process of its own."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.rows import pages_fill
from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.input_queue import MOST_INPUTS, InputQueue
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope, Policy, new_id
from broker_jobs.messages.events import BUNDLE, Bundle, Succeeded, WorkerRef
from broker_jobs.store import Store

EVENTS = 250
"""Outcomes of one message, about as many as a busy worker sends."""
WORKER = WorkerRef(id="bench", host="bench", slot="1")


def write(url: str, full: int, count: int, rounds: int) -> dict[str, Any]:
    """Fill a store with `full` jobs; then read and commit what `count` empty jobs leave in the log, two records each.

    Envelopes and outcomes come as they do when worker and coordinator keep up: in the same transaction mostly.
    """
    if full:
        pages_fill.fill(url, full)
    store = Store(url)
    store.open()
    engine = Engine(store, "bench", since=time.time())
    seconds, cpus = [], []
    for _ in range(rounds):
        deliveries = _log_of(count)
        inbox = InputQueue()
        inbox.put(names.LOG, deliveries)
        start, cpu = time.perf_counter(), time.process_time()
        while steps := _taken(inbox):
            engine.apply([step.input for step in steps], time.time())
        seconds.append(time.perf_counter() - start)
        cpus.append(time.process_time() - cpu)
    store.close()
    return {"records": 2 * count, "seconds": seconds, "cpu": cpus}


def _taken(inbox: InputQueue) -> list[Any]:
    inbox.wait(0)
    return inbox.take(MOST_INPUTS)


def _log_of(count: int) -> list[Delivery]:
    found: list[Delivery] = []
    for start in range(0, count, EVENTS):
        now = time.time()
        envelopes = [_envelope(now) for _ in range(min(EVENTS, count - start))]
        found += [_delivery("job", names.SUBMIT, codec.encode(envelope), len(found)) for envelope in envelopes]
        events = [
            Succeeded(id=envelope.id, epoch=1, started_at=now + 0.001, ended_at=now + 0.002, result="null")
            for envelope in envelopes
        ]
        bundle = Bundle(worker=WORKER, sent_at=now + 0.01, events=list(events))
        found.append(_delivery("events", names.REPORT, BUNDLE.dump_json(bundle), len(found)))
    return found


def _envelope(now: float) -> Envelope:
    return Envelope.model_validate(
        {"id": new_id(), "job": "empty", "created_at": now, "policy": Policy(retries=10), "queue": "default"}
    )


def _delivery(kind: str, exchange: str, body: bytes, tag: int) -> Delivery:
    return Delivery(
        channel=1, tag=tag + 1, queue=names.LOG, body=body, redelivered=False, exchange=exchange, key="default",
        type=kind, message_id="", reply_to=None, correlation_id=None, delivery_count=0,
    )  # fmt: skip
