"""Makes values that the models of the messages accept, by walking the models: a new field is fuzzed at once."""

from __future__ import annotations

import json
import random
import types
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from broker_jobs.messages.envelope import Envelope

Make = Callable[[random.Random], Any]
"""Makes a value of JSON."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""Where the clock of a run begins."""
IDS = [f"f{number}" for number in range(150)] + ["0199e2c0-5d3a-7c1e-9f00-3f1f6e0c2a13", "A.b_c:d@e/f+g-h", "x" * 100]
"""Few, so that records meet: jobs and batches are named out of one list."""
WORDS = [
    "work", "mail", "", "a", "null", "0", "batch:f1", "f1", "é", "👩‍🚀", "\u202egnp", "' OR 1=1 --", "%_\\", "{{7*7}}",
    "<script>", "a\nb\tc", "\x1b[31m", "\x7f\x01", "ﬀ", "İ", "line:f1", "😀" * 40,
]  # fmt: skip
POOLS: dict[str, list[Any]] = {
    "queue": ["default", "mail", "q-1", "x" * 100],
    "paused_queue": ["mail", "q-1"],
    "key": ["k1", "k2", "tenant:{id}", "k" * 512, "😀" * 512, "concurrency:k1"],
    "worker": ["w1", "w2", "w" * 300],
    "coordinator": ["c1", "c2", "c" * 300],
    "host": ["h1", "h2", ""],
    "slot": ["1", "2", ""],
    "event": ["user.registered", "e" * 200],
    "recurring": ["nightly", "hourly", "n" * 200],
    "service": ["shop", "billing", "", "s" * 100],
    "code": ["ab12", "cd34", "", "f" * 64],
    "cron": [
        "* * * * *", "0 9 * * MON", "*/5 * * * * *", "0 0 29 2 *", "0 0 31 2 *", "0 0 L * *", "60 * * * *", "@daily",
        "", "* * * * * *", "1-59/0 * * * *", "0 0 * * 8", "R * * * *", "H * * * *", "0-59," * 190 + "1 * * * *",
    ],
    "tz": ["UTC", "Europe/Istanbul", "Nowhere/At_All", "", "../../etc/passwd", "America/New_York", "a" * 100],
}  # fmt: skip
NAMED = {
    "worker": "worker", "owner": "worker", "coordinator": "coordinator", "host": "host", "slot": "slot",
    "event": "event", "recurring": "recurring", "service": "service", "code": "code", "cron": "cron", "tz": "tz",
    "key": "key", "queue": "queue",
}  # fmt: skip
"""Field -> the pool of its values."""
NAMED_IN: dict[tuple[str, str], str] = {
    ("PauseQueue", "queue"): "paused_queue",
    ("WorkerRef", "id"): "worker", ("Schedule", "name"): "recurring", ("RemoveRecurring", "name"): "recurring",
    ("PauseRecurring", "name"): "recurring", ("TriggerRecurring", "name"): "recurring", ("Fire", "name"): "recurring",
}  # fmt: skip
EPOCHS = [0, 1, 1, 1, 1, 2, 2, 3, 4]


def body_of(model: type[BaseModel], chance: random.Random) -> dict[str, Any]:
    """A sound message of this model, as JSON."""
    made: dict[str, Any] = _model(model)(chance)
    return made


def any_json(chance: random.Random, depth: int = 0) -> Any:
    """Some JSON."""
    kind = chance.randrange(9 if depth < 3 else 6)
    if kind < 2:
        return chance.choice(WORDS)
    if kind == 2:
        return chance.choice([0, 1, -1, 7, 2**53, -(2**63), 10**30, 1.5, 1e308, -0.0])
    if kind == 3:
        return chance.choice([True, False, None])
    if kind < 6:
        return chance.randrange(100)
    if kind == 6:
        return {chance.choice(WORDS): any_json(chance, depth + 1) for _ in range(chance.randrange(3))}
    return [any_json(chance, depth + 1) for _ in range(chance.randrange(4))]


def envelope(chance: random.Random, **fields: Any) -> dict[str, Any]:
    """A sound envelope: what it takes as results are arguments that it has."""
    made = body_of(Envelope, chance) | fields
    count = len(made.get("args", ()))
    for result_arg in made.get("result_args", ()):
        result_arg["place"] = chance.randrange(count) if count else next(iter(made.get("kwargs", ())), "")
    if not count and not made.get("kwargs"):
        made.pop("result_args", None)
    return made


def _moment(chance: random.Random) -> str:
    edge = chance.random()
    if edge < 0.04:
        return "1970-01-01T00:00:00Z"
    if edge < 0.08:
        return "2999-12-31T23:59:59.999999Z"
    zone = UTC if edge < 0.9 else timezone(timedelta(hours=chance.choice([14, -12])))
    return (NOW + timedelta(seconds=chance.choice([0, 0, 1, 30, -3600, 86_400]))).astimezone(zone).isoformat()


def _model(model: type[BaseModel]) -> Make:
    fields: list[tuple[str, bool, Make]] = _fields(model)
    often = 0.15 if len(fields) > 8 else 0.5

    def make(chance: random.Random) -> dict[str, Any]:
        return {name: of(chance) for name, required, of in fields if required or chance.random() < often}

    return make


@cache
def _fields(model: type[BaseModel]) -> list[tuple[str, bool, Make]]:
    return [
        (name, field.is_required() or name == "kind", _field(model, name, field))
        for name, field in model.model_fields.items()
    ]


def _field(model: type[BaseModel], name: str, field: FieldInfo) -> Make:
    of = model.__name__
    if name in ("envelope", "call"):
        return lambda chance: json.dumps(envelope(chance))
    if name == "v":
        return lambda _: 1
    if name == "epoch":
        return lambda chance: chance.choice(EPOCHS) if chance.random() < 0.97 else 2**53
    if name == "result":
        return lambda chance: json.dumps(any_json(chance)) if chance.random() < 0.8 else chance.choice(WORDS)
    pool = NAMED_IN.get((of, name), NAMED.get(name))
    if pool is not None and field.annotation in (str, str | None):
        values = POOLS[pool]
        return lambda chance: chance.choice(values)
    if of == "Envelope" and name == "job":
        return lambda chance: chance.choice(["work", "work", "mail", "j" * 200, "İ😀"])
    if name in ("batch_id", "dead_letter_id") or (name == "id" and "kind" not in model.model_fields):
        return lambda chance: chance.choice(IDS)
    if name == "id" and "v" in model.model_fields:  # of a command: each is applied once
        return lambda chance: f"command-{chance.randrange(1_000_000)}"
    return _annotated(field.annotation, list(field.metadata))


def _annotated(annotation: Any, metadata: list[Any]) -> Make:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        inner, *more = arguments
        unfolded = [part for each in more for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return _annotated(inner, [*unfolded, *metadata])
    if origin in (Union, types.UnionType):
        makers = [_annotated(each, metadata) for each in arguments if each is not type(None)]
        return lambda chance: makers[chance.randrange(len(makers))](chance)
    if origin is Literal:
        return lambda chance: chance.choice(arguments)
    if annotation is Any:
        return any_json
    if annotation is bool:
        return lambda chance: chance.random() < 0.5
    if annotation is int or annotation is float:
        return _number(annotation, metadata)
    if annotation in (datetime, AwareDatetime):
        return _moment
    if annotation is str:
        return _text(metadata)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        values = [each.value for each in annotation]
        return lambda chance: chance.choice(values)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model(annotation)
    if origin is tuple and Ellipsis not in arguments:
        makers = [_annotated(each, []) for each in arguments]
        return lambda chance: [make(chance) for make in makers]
    if origin is dict:
        of_key, of_value = (_annotated(each, []) for each in arguments)
        return lambda chance: {str(of_key(chance)): of_value(chance) for _ in range(chance.randrange(3))}
    if origin in (list, tuple):
        return _list(_annotated(arguments[0], []), metadata)
    raise TypeError(f"the fuzzer makes no {annotation!r} yet: add it")


def _limit(metadata: list[Any], *names: str) -> Any:
    for each in metadata:
        for name in names:
            if (value := getattr(each, name, None)) is not None:
                return value
    return None


def _number(kind: type[int] | type[float], metadata: list[Any]) -> Make:
    low = _limit(metadata, "ge", "gt")
    high = _limit(metadata, "le", "lt")
    above, below = _limit(metadata, "gt") is not None, _limit(metadata, "lt") is not None
    is_instant = kind is float and below and high is not None and high > 1e9
    step = 1 if kind is int else 0.5
    edges = [low + step if above else low, high - step if below else high]

    def make(chance: random.Random) -> Any:
        if chance.random() < 0.1:
            return kind(chance.choice(edges))
        if is_instant:
            return NOW.timestamp() + chance.choice([0.0, 0.25, 1.0, 5.0, -60.0, 86_400.0])
        return min(max(kind(chance.choice([0, 1, 2, 3, 5, 60])), edges[0]), edges[1])

    return make


def _text(metadata: list[Any]) -> Make:
    pattern, most = _limit(metadata, "pattern"), _limit(metadata, "max_length") or 100
    if isinstance(pattern, str) and pattern.startswith("^[A-Za-z0-9"):
        pool = POOLS["queue"] if ":" not in pattern else IDS
        return lambda chance: chance.choice(pool)
    if isinstance(pattern, str) and pattern.startswith(("^([A-Za-z0-9", "^[0-9a-f]")):
        texts = POOLS["code" if "(" not in pattern else "service"]
        return lambda chance: chance.choice(texts)
    if isinstance(pattern, str) and pattern.startswith("^line"):
        return lambda chance: f"line:{chance.choice(['concurrency', 'rate'])}:{chance.choice(POOLS['key'])}"[:most]
    least = _limit(metadata, "min_length") or 0
    is_some = least > 0 or (isinstance(pattern, str) and "+" in pattern)
    words = [word for word in WORDS if word or not is_some]

    def make(chance: random.Random) -> str:
        if chance.random() < 0.01:
            return (chance.choice(["x", "😀", '"', "\\", "é"]) * min(most, 20_000))[:most]
        return chance.choice(words)[:most]

    return make


def _list(of: Make, metadata: list[Any]) -> Make:
    least, most = _limit(metadata, "min_length") or 0, _limit(metadata, "max_length") or 10

    def make(chance: random.Random) -> list[Any]:
        count = chance.randrange(4) if chance.random() < 0.995 else min(most, 1_000)
        return [of(chance) for _ in range(max(least, count))]

    return make
