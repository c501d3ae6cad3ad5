"""Defines the names of all exchanges and queues. They contain a version: other queue arguments need a new version."""

from __future__ import annotations

import re

SUBMIT = "jobs.v1.submit"
"""Fanout: producers publish ready jobs here; the routing key is the queue name. Copies go to WORK and to the log."""
WORK = "jobs.v1.work"
"""Direct: routes by queue name to the work queues. Unroutable messages go to the dead letters."""
DELAY = "jobs.v1.delay"
"""Direct: routing key `<level>` reaches the delay queue of the level, `<level>.new` also the log."""
REPORT = "jobs.v1.report"
"""Direct: messages for the coordinator, with the routing keys `log` and `command`."""
CONTROL = "jobs.v1.control"
"""Fanout: control messages of the coordinator to workers and beats."""

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


def work_queue(queue: str) -> str:
    """Return the name of the work queue with the ready jobs of `queue`."""
    return f"jobs.v1.work.{queue}"


def queue_of(work_queue_name: str) -> str:
    """Return the job queue of a work queue."""
    return work_queue_name.removeprefix("jobs.v1.work.")


def delay_queue(level: int) -> str:
    """Return the name of the delay queue of a level: 2**level seconds."""
    return f"jobs.v1.delay.{level:02d}"


def delay_key(level: int, *, new: bool) -> str:
    """Return the routing key on DELAY. `new`: a first message, which goes to the log too."""
    return f"{level:02d}.new" if new else f"{level:02d}"
