"""Defines the names of all exchanges and queues. They contain a version: other queue arguments need a new version."""

from __future__ import annotations

import re
import uuid

from broker_jobs.messages.priority import NORMAL, PRIORITIES, Priority

# The broker's rights end at the exchange, so each role publishes to exchanges of its own (broker/roles.py).
SUBMIT = "jobs.v1.submit"
"""Fanout, for producers: ready jobs; the routing key is that of `work_key`. Copies go to WORK and to the log."""
OFFER = "jobs.v1.offer"
"""Direct, for producers: jobs that are not ready, batch messages, published events, with the routing key `log`. A
delayed job with the key `<level>` reaches the log and the delay queue of the level."""
REQUEST = "jobs.v1.request"
"""Direct, for producers: questions, and commands about jobs and batches whose id the sender has."""
REPORT = "jobs.v1.report"
"""Direct, for workers: events with the routing key `log`, and the hello with the key `command`."""
DECLARE = "jobs.v1.declare"
"""Direct, for workers and beats: what the code of a program declares."""
FIRE = "jobs.v1.fire"
"""Direct, for beats: planned times that are due."""
OPERATE = "jobs.v1.operate"
"""Direct, for the dashboard and people: commands about everything."""
DEAD = "jobs.v1.dead"
"""Fanout, for workers: deliveries that cannot be decoded."""
TICK = "jobs.v1.tick"
"""Direct, for coordinators: messages to each other, with the routing keys `log` and `command`."""
WORK = "jobs.v1.work"
"""Direct, for coordinators: routes by `work_key` to the work queues. Unroutable messages go to UNROUTABLE."""
DELAY = "jobs.v1.delay"
"""Direct, for coordinators: the routing key `<level>` reaches the delay queue of the level."""
CONTROL = "jobs.v1.control"
"""Fanout, for coordinators: control messages to workers and beats."""

# Internal: nobody can publish to them, so what comes from them was moved by the broker.
EXPIRED = "jobs.v1.expired"
"""Fanout: what has waited long enough in a delay queue."""
RETURNED = "jobs.v1.returned"
"""Fanout: what was returned to a work queue more often than its delivery limit allows."""
UNROUTABLE = "jobs.v1.unroutable"
"""Fanout: what WORK cannot route, as its queue does not exist."""

LOG = "jobs.v1.log"
COMMAND = "jobs.v1.command"
DUE = "jobs.v1.due"
DEAD_LETTERS = "jobs.v1.dead"
LOG_KEY = "log"
COMMAND_KEY = "command"

QUEUE_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
QUEUE_NAME_RULE = "1 to 100 of the characters A-Z a-z 0-9 . _ -"


def is_queue_name(name: str) -> bool:
    """Whether a queue may have this name. It is also a routing key, so `#` and `*` are not allowed."""
    return QUEUE_NAME.fullmatch(name) is not None


def work_key(queue: str, priority: Priority = NORMAL) -> str:
    """Return the routing key of a queue's jobs of a priority, on SUBMIT and on WORK: "mail", "mail:high", "mail:low".

    No name of a queue contains a colon, so the work queues of two queues never have the same name.
    """
    return queue if priority == NORMAL else f"{queue}:{priority}"


def work_queue(queue: str, priority: Priority = NORMAL) -> str:
    """Return the name of the work queue with the ready jobs of `queue` that have this priority."""
    return f"jobs.v1.work.{work_key(queue, priority)}"


def work_queues(queue: str) -> tuple[str, ...]:
    """Return the names of the work queues of a queue, one for each priority, the highest first."""
    return tuple(work_queue(queue, priority) for priority in PRIORITIES)


def queue_of(work_queue_name: str) -> str:
    """Return the job queue of a work queue."""
    return work_queue_name.removeprefix("jobs.v1.work.").partition(":")[0]


def priority_of(work_queue_name: str) -> Priority:
    """Return the priority of the jobs in a work queue."""
    suffix = work_queue_name.partition(":")[2]
    return "high" if suffix == "high" else "low" if suffix == "low" else NORMAL


def delay_queue(level: int) -> str:
    """Return the name of the delay queue of a level: 2**level seconds."""
    return f"jobs.v1.delay.{level:02d}"


def delay_key(level: int) -> str:
    """Return the routing key of a delay level, on OFFER and on DELAY."""
    return f"{level:02d}"


REPLY_QUEUE = re.compile(r"jobs\.v1\.reply\.[0-9a-f]{32}")


def new_reply_queue() -> str:
    """Return a name for a private queue, which nobody can guess."""
    return f"jobs.v1.reply.{uuid.uuid4().hex}"


def is_reply_queue(name: str) -> bool:
    """Whether a private queue of ours may have this name. A reply to any other queue would be a message of its own."""
    return REPLY_QUEUE.fullmatch(name) is not None
