"""Makes deliveries: each type of message from each exchange, sound or broken, with hostile properties."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.roles import COMMANDS, MOVED_BY_BROKER, TYPES
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.commands import Command
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Bundle, Tick
from broker_jobs.messages.published import PublishedEvent
from tests.fuzz.mutations import broken, mutated
from tests.fuzz.values import IDS, POOLS, WORDS, body_of, envelope

MODELS: dict[str, type[BaseModel]] = {
    "events": Bundle, "tick": Tick, "checkpoint": Tick, "commit": BatchCommit, "published": PublishedEvent,
}  # fmt: skip
"""Type of a message -> its model; the others are made by hand below."""
COMMAND_MODELS: dict[str, type[BaseModel]] = {
    each.model_fields["kind"].default: each for each in get_args(get_args(Command)[0])
}
READ = Envelope, Chunk, *MODELS.values(), *COMMAND_MODELS.values()
LOOKED_AT = [*IDS, "line:rate:k1", "line:concurrency:k2"]
REPLY_TO = "jobs.v1.reply." + "f" * 32
STRANGE_TEXTS = ["", "x" * 255, "a\x00b", r"gr\xfc\xdfe", "jobs.v1.log", "amq.rabbitmq.reply-to", "\u202e", "👩‍🚀"]
STRANGE_TYPES = [*STRANGE_TEXTS, "job", "events", "of tomorrow", "dead-lettered:"]
WEIGHTS: dict[tuple[str, str], int] = {
    (names.LOG, names.SUBMIT): 6, (names.LOG, names.OFFER): 10, (names.LOG, names.REPORT): 10,
    (names.COMMAND, names.REQUEST): 5, (names.COMMAND, names.OPERATE): 6, (names.COMMAND, names.FIRE): 2,
    (names.COMMAND, names.DECLARE): 2, (names.DUE, names.EXPIRED): 3, (names.LOG, names.RETURNED): 2,
}  # fmt: skip
"""How often each road is taken, of all others once."""


class Road(NamedTuple):
    """A queue, the exchange by which a message comes to it, and its type."""

    queue: str
    exchange: str
    type: str


ROADS = [Road(*place, kind) for place, kinds in sorted(TYPES.items()) for kind in sorted(kinds)]
ROADS.append(Road(names.DEAD_LETTERS, names.DEAD, "job"))
EXCHANGES = sorted({road.exchange for road in ROADS} | {"", "amq.topic", names.CONTROL, names.DELAY})


class Messages:
    """A stream of deliveries; two of one seed are equal.

    Args:
        seed: chooses them.
        hostile: the part of the messages that are broken.
    """

    def __init__(self, seed: int | str, hostile: float = 0.55) -> None:
        self.chance = random.Random(seed)
        self._hostile = hostile
        self._before: deque[Delivery] = deque(maxlen=500)
        self._weights = [WEIGHTS.get((road.queue, road.exchange), 1) for road in ROADS]
        self.dead_letters: list[str] = []
        """Ids of dead letters there are: commands name them."""

    def next(self) -> Delivery:
        """One more."""
        chance = self.chance
        if self._before and chance.random() < 0.05:  # it comes again
            again = chance.choice(self._before)
            return again._replace(redelivered=True, delivery_count=chance.choice([0, 1, 1, 2]))
        road = chance.choices(ROADS, self._weights)[0]
        body: Any = self.sound(road)
        if chance.random() < self._hostile:
            body = mutated(body, chance)
        raw = _bytes(body, chance)
        if chance.random() < self._hostile / 6:
            raw = broken(raw, chance)
        made = self._strange(self._delivery(road, raw))
        self._before.append(made)
        return made

    def sound(self, road: Road) -> Any:
        """A sound body for this road, as JSON."""
        chance = self.chance
        match road.type:
            case "job" | "repeat":
                return envelope(chance)
            case "chunk":
                batch = chance.choice(IDS)
                jobs = [envelope(chance, batch=batch, epoch=0) for _ in range(chance.choice([1, 1, 2, 5]))]
                return body_of(Chunk, chance) | {"batch": batch, "jobs": [json.dumps(job) for job in jobs]}
            case "look":
                return [chance.choice(LOOKED_AT) for _ in range(chance.randrange(5))]
            case "command":
                kinds = sorted(COMMANDS[road.exchange] if chance.random() < 0.97 else COMMAND_MODELS)
                body = body_of(COMMAND_MODELS[chance.choice(kinds)], chance)
                if "dead_letter_id" in body and self.dead_letters:
                    body["dead_letter_id"] = chance.choice(self.dead_letters)
                return body
            case other:
                return body_of(MODELS[other], chance)

    def _delivery(self, road: Road, body: bytes) -> Delivery:
        reply_to = REPLY_TO if road.type == "command" and self.chance.random() < 0.7 else None
        return Delivery(
            channel=1, tag=0, queue=road.queue, body=body, redelivered=False, exchange=road.exchange,
            key=self.chance.choice(["log", "command", "07", "28", *POOLS["queue"]]), type=road.type, message_id="m",
            reply_to=reply_to, correlation_id=None, delivery_count=0, user_id="fuzz",
            dead_lettered=road.exchange in MOVED_BY_BROKER,
        )  # fmt: skip

    def _strange(self, made: Delivery) -> Delivery:
        """With other properties, now and then."""
        chance = self.chance
        if chance.random() > 0.15:
            return made
        match chance.randrange(10):
            case 0:
                return made._replace(type=chance.choice(STRANGE_TYPES))
            case 1:
                return made._replace(exchange=chance.choice(EXCHANGES))
            case 2:
                return made._replace(reply_to=chance.choice([*STRANGE_TEXTS, REPLY_TO]))
            case 3:
                return made._replace(message_id=chance.choice(STRANGE_TEXTS), correlation_id=chance.choice(WORDS))
            case 4:
                return made._replace(user_id=chance.choice(["", *STRANGE_TEXTS]))
            case 5:
                return made._replace(dead_lettered=not made.dead_lettered)
            case 6:
                return made._replace(delivery_count=chance.choice([1, 2, 3, -1, 2**63]), redelivered=True)
            case 7:
                return made._replace(expiration=chance.choice([0.0, 0.001, 60.0, 1e300]))
            case 8:
                return made._replace(key=chance.choice(STRANGE_TEXTS))
            case _:
                return made._replace(queue=chance.choice([road.queue for road in ROADS]))


def _bytes(body: Any, chance: random.Random) -> bytes:
    style = chance.random()
    if style < 0.9:
        return json.dumps(body, separators=(",", ":")).encode()
    if style < 0.96:
        return json.dumps(body, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    if style < 0.98 and isinstance(body, dict) and body:
        key, value = chance.choice(list(body.items()))
        return json.dumps(body).encode()[:-1] + f", {json.dumps(key)}: {json.dumps(value)}}}".encode()  # twice
    return json.dumps(body).encode(chance.choice(["utf-16", "utf-32", "utf-8-sig"]))
