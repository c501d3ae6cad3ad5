"""Holds every name the broker knows of us, with a version in it; a change of a queue's arguments is a new version."""

from __future__ import annotations

import re

SUBMIT = "jobs.v1.submit"
"""Fanout: producers publish ready jobs here, routing key = queue name. Copies go to work and to the log."""
WORK = "jobs.v1.work"
"""Direct: routes by queue name to work queues; unroutable goes to parked."""
DELAY = "jobs.v1.delay"
"""Direct: the delay queues; key `<step>` reaches the step's queue, `<step>.new` also the log."""
REPORT = "jobs.v1.report"
"""Direct: what is told to the coordinator; keys `log` and `command`."""
CONTROL = "jobs.v1.control"
"""Fanout: what the coordinator tells workers and beats."""

LOG = "jobs.v1.log"
COMMAND = "jobs.v1.command"
DUE = "jobs.v1.due"
DEAD_LETTERS = "jobs.v1.dead"
LOG_KEY = "log"
COMMAND_KEY = "command"

QUEUE_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
QUEUE_NAME_RULE = "1 to 100 of the characters A-Z a-z 0-9 . _ -"


def is_queue_name(name: str) -> bool:
    """Whether a queue may have this name (it is also a routing key, so `#` and `*` are out)."""
    return QUEUE_NAME.fullmatch(name) is not None


def work_queue(queue: str) -> str:
    """The broker's queue that holds the ready jobs of `queue`."""
    return f"jobs.v1.work.{queue}"


def queue_of(work_queue_name: str) -> str:
    """The job queue whose ready jobs a broker's queue holds."""
    return work_queue_name.removeprefix("jobs.v1.work.")


def delay_queue(level: int) -> str:
    """The queue of the delay level of 2**step seconds."""
    return f"jobs.v1.delay.{level:02d}"


def delay_key(level: int, *, new: bool) -> str:
    """The routing key on DELAY: `new` for a producer's first message, which the log sees too."""
    return f"{level:02d}.new" if new else f"{level:02d}"
