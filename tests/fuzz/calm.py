"""Jobs of innocent programs beside the hostile messages: they stay as they are, and new ones succeed."""

from __future__ import annotations

import json
from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Message
from broker_jobs.messages.events import Bundle, Heartbeat, Started, Succeeded, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.row import Row
from tests.fuzz.room import Room
from tests.fuzz.values import NOW

WORKER = WorkerRef(id="calm-worker", host="calm-host", slot="1")
QUEUE = "calm"
KEPT = ["state", "owner", "due_at", "attempt", "publication", "waits", "envelope", "queue", "reason", "ended_at"]
"""Columns of a row that no message about another job changes."""


def job(id: str, **fields: Any) -> dict[str, Any]:
    """A sound envelope."""
    return {"id": id, "job": "calm", "queue": QUEUE, "created_at": NOW.isoformat(), **fields}


def delivery(exchange: str, type: str, body: object, queue: str = names.LOG) -> Delivery:  # noqa: A002  # as in AMQP
    """A message of an innocent program."""
    message = Message(exchange, "log", json.dumps(body).encode(), type)
    return Delivery(
        1, 0, queue, message.body, False, exchange, message.key, type, "", None, None, 0, "calm",
        dead_lettered=exchange in (names.EXPIRED, names.RETURNED),
    )  # fmt: skip


def told(room: Room, *events: Started | Succeeded | Heartbeat) -> Delivery:
    """What the innocent worker says."""
    bundle = Bundle(worker=WORKER, sent_at=room.clock.now(), events=list(events))
    return delivery(names.REPORT, "events", json.loads(bundle.model_dump_json(exclude_none=True)))


def waiting_jobs() -> list[Delivery]:
    """Jobs in every state that lasts: enqueued, scheduled, running, waiting for a parent, a batch, a limit, a key."""
    later = "2035-01-01T00:00:00Z"
    limited = {"limits": [{"kind": "concurrency", "key": "calm-limit", "limit": 1}]}
    member = job("calm-member", epoch=0, batch="calm-batch", due_at=later)
    submission = {"batch": "calm-batch", "submission": "calm-batch.1", "created_at": NOW.timestamp()}
    return [
        delivery(names.SUBMIT, "job", job("calm-enqueued")),
        delivery(names.SUBMIT, "job", job("calm-running")),
        delivery(names.OFFER, "job", job("calm-scheduled", epoch=0, due_at=later)),
        delivery(names.OFFER, "job", job("calm-unique", epoch=0, due_at=later, unique={"key": "calm-key"})),
        delivery(names.OFFER, "job", job("calm-alias", epoch=0, due_at=later, unique={"key": "calm-key"})),
        delivery(names.OFFER, "job", job("calm-child", epoch=0, after={"parents": [{"id": "calm-scheduled"}]})),
        delivery(names.OFFER, "job", job("calm-limited", epoch=0, **limited)),
        delivery(names.OFFER, "job", job("calm-in-line", epoch=0, **limited)),
        delivery(names.OFFER, "chunk", submission | {"number": 0, "jobs": [json.dumps(member)]}),
        delivery(names.OFFER, "commit", submission | {"chunks": 1}),
        delivery(names.OFFER, "job", job("calm-after-batch", epoch=0, after={
            "parents": [{"id": "calm-batch", "batch": True, "on": "finished"}]})),
    ]  # fmt: skip


class CalmJobs:
    """What innocent programs have enqueued. Their worker lives, and runs what it is given."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._count = 0
        self._holds = "calm-running", "calm-limited"
        room.hand(waiting_jobs())
        room.come_to_rest()
        self.work()
        room.meanwhile = self.heartbeat
        room.come_to_rest()
        self._before = self._seen()

    def heartbeat(self) -> None:
        """The worker lives, and runs what it holds."""
        running = [(id, 1) for id in self._holds]
        self._room.hand(
            [
                told(
                    self._room,
                    Heartbeat(at=self._room.clock.now(), running=running, received=["calm-enqueued"], queues=[QUEUE]),
                )
            ]
        )

    def work(self) -> None:
        """The worker runs what is released to it; what it holds goes on."""
        now = self._room.clock.now()
        released, self._room.broker.released = self._room.broker.released, []
        said = [Started(id="calm-running", epoch=1, at=now, owned=True)] if not self._count else []
        self._room.hand([told(self._room, one) for one in said])
        for message in released:
            envelope = json.loads(message.body)
            id, epoch = envelope["id"], envelope["epoch"]
            if not id.startswith("calm"):
                continue
            self._room.hand([told(self._room, Started(id=id, epoch=epoch, at=now, owned=True))])
            if id not in self._holds:
                done = Succeeded(id=id, epoch=epoch, started_at=now, ended_at=now, result="1")
                self._room.hand([told(self._room, done)])

    def _seen(self) -> dict[str, Row]:
        with self._room.store.transaction() as tx:
            ids = [json.loads(one.body).get("id", "calm-member") for one in waiting_jobs()]
            return tx.jobs.load(ids)

    def touched(self) -> list[str]:
        """What was changed though no message named it; empty: nothing."""
        now = self._seen()
        found = []
        for id, before in self._before.items():
            row = now.get(id)
            changed = [name for name in KEPT if row is None or getattr(row, name) != getattr(before, name)]
            if changed:
                found.append(f"the innocent job {id} changed: {changed}, {row}")
        return found

    def succeed(self, count: int) -> list[str]:
        """Enqueue so many jobs of every kind and run them; those that do not succeed."""
        room, ids = self._room, []
        for _ in range(count):
            self._count += 1
            id = f"calm-{self._count}"
            ids.append(id)
            match self._count % 4:
                case 0:
                    room.hand([delivery(names.SUBMIT, "job", job(id))])
                    at = room.clock.now()
                    room.hand([told(room, Succeeded(id=id, epoch=1, started_at=at, ended_at=at))])
                case 1:
                    room.hand([delivery(names.OFFER, "job", job(id, epoch=0))])
                case 2:
                    after = {"parents": [{"id": ids[-2] if len(ids) > 1 else "calm-enqueued", "on": "finished"}]}
                    room.hand([delivery(names.OFFER, "job", job(id, epoch=0, after=after if len(ids) > 1 else None))])
                case _:
                    rate = [{"kind": "concurrency", "key": f"calm-{self._count % 3}", "limit": 2}]
                    room.hand([delivery(names.OFFER, "job", job(id, epoch=0, limits=rate))])
        left, rows = ids, dict[str, Row]()
        for _ in range(20):
            self.heartbeat()
            room.round(0.5)
            self.work()
            room.round(0.1)
            with room.store.transaction() as tx:
                rows = tx.jobs.load(ids)
            left = [id for id in ids if id not in rows or rows[id].state is not State.SUCCEEDED]
            if not left:
                return []
        return [f"the sound job {id} has not succeeded: {rows.get(id)}" for id in left]
