"""Reads which queues a worker serves: in strict preference or by weights, and how many jobs of each it runs at once.

`mail,bulk` serves mail first: a job of bulk starts when none of mail waits. `mail:3,bulk:1` gives mail three starts for
each one of bulk while both have jobs. A limit (`bulk=2`) is the number of jobs of a queue that one worker process runs
at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name

MAX_QUEUES = 1_000
"""Each heartbeat of a worker lists its queues; the message allows no more."""
MAX_WEIGHT = 1_000
MAX_LIMIT = 10_000
"""That of the concurrency of a worker."""


@dataclass(frozen=True)
class ServedQueues:
    """The queues of a worker, in the order of their preference. Without `weights` the preference is strict."""

    names: tuple[str, ...]
    weights: Mapping[str, int] = field(default_factory=dict)
    """Queue -> its share of the starts, for all queues or for none."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Queue -> how many of its jobs run at once; the concurrency of the worker, where it is not named."""

    @classmethod
    def parse(cls, queues: Sequence[str], limits: Mapping[str, int] | None = None) -> Self:
        """Read queues as they are written: `mail`, or with a weight `mail:3`.

        Raises:
            ValueError: says what is wrong and what to write.
        """
        if not queues:
            raise ValueError("name at least one queue, such as default")
        if len(queues) > MAX_QUEUES:
            raise ValueError(f"at most {MAX_QUEUES:_} queues, not {len(queues):_}; let several jobs share a queue")
        weights: dict[str, int] = {}
        names: list[str] = []
        for written in queues:
            name, colon, weight = written.partition(":")
            if not is_queue_name(name):
                raise ValueError(f"{name!r} is not a queue name: use {QUEUE_NAME_RULE}")
            if name in names:
                raise ValueError("a queue is listed twice; list each queue once")
            names.append(name)
            if colon:
                weights[name] = _number(weight, MAX_WEIGHT, f"the weight of queue {name}", f"{name}:3")
        if weights and len(weights) < len(names):
            missing = next(name for name in names if name not in weights)
            raise ValueError(
                f"queue {missing} has no weight and others have one; give each queue a weight, such as {missing}:1, "
                "or none for a strict preference"
            )
        for name in limits or {}:
            if name not in names:
                raise ValueError(
                    f"queue {name!r} has a limit and is not served; add it to the queues, or remove its limit"
                )
        return cls(tuple(names), weights, dict(limits or {}))

    def written(self) -> list[str]:
        """The queues as `parse` reads them."""
        return [f"{name}:{self.weights[name]}" if self.weights else name for name in self.names]


def parse_limits(limits: Sequence[str]) -> dict[str, int]:
    """Read limits as they are written: `bulk=2`.

    Raises:
        ValueError: says what is wrong and what to write.
    """
    parsed: dict[str, int] = {}
    for written in limits:
        name, equals, number = (part.strip() for part in written.partition("="))
        if not equals or not is_queue_name(name):
            raise ValueError(f"{written!r} is not a limit of a queue; write the queue and a number: bulk=2")
        if name in parsed:
            raise ValueError(f"queue {name} has two limits; write one")
        parsed[name] = _number(number, MAX_LIMIT, f"the limit of queue {name}", f"{name}=2")
    return parsed


def _number(text: str, most: int, what: str, example: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not 1 <= number <= most:
        raise ValueError(f"{what} is {text!r}; write a whole number from 1 to {most:_}, such as {example}")
    return number
