"""Says how often jobs of one key may be there, run and start: unique keys and limits, as options and as they travel.

Their keys may be templates over the job's arguments. A template is checked where it is written, and made a key where
the job is enqueued; the coordinator sees keys only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from broker_jobs.clock import Seconds, as_seconds
from broker_jobs.errors import ArgumentsError, OptionError, nearest
from broker_jobs.function.pending import Pending
from broker_jobs.function.signature import Signature
from broker_jobs.function.template import Placeholder, Unrenderable, template_of, unkeepable
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, MAX_KEY_CHARS, MAX_LIMITS, LimitKey, UniqueKey

MAX_LIMIT = 1_000_000


@dataclass(frozen=True)
class Concurrency:
    """At most `limit` jobs of this key run at once, on all workers together."""

    key: str
    limit: int

    def __post_init__(self) -> None:
        _check_key(self.key, "Concurrency")
        check_limit(self.limit, f"Concurrency({self.key!r}, …)")


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` jobs of this key start in `per` seconds: in any such span (sliding), or anew with each (fixed).

    Retries are starts too.
    """

    key: str
    limit: int
    per: Seconds
    window: Literal["sliding", "fixed"] = "sliding"

    def __post_init__(self) -> None:
        _check_key(self.key, "RateLimit")
        title = f"RateLimit({self.key!r}, …)"
        check_limit(self.limit, title)
        _check_seconds(self.per, f"{title}: per")
        if self.window not in ("sliding", "fixed"):
            raise OptionError(f"{title}: window must be 'sliding' or 'fixed', not {self.window!r}")


@dataclass(frozen=True)
class Ordered:
    """Jobs of this key run one at a time in the order of their acceptance; one keeps its place through its retries.

    A job that waits for a parent, a batch or a time does not stop the others: it keeps its place, and goes before all
    later ones when that has come.
    """

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key, "Ordered")


@dataclass(frozen=True)
class Unique:
    """Of the jobs of this key only one is there: until it starts, until it ends, or for a time from its acceptance.

    A later one becomes an alias of it (conflict="keep"), or takes its place while it only waits ("replace").
    """

    key: str
    scope: Literal["queued", "running"] | timedelta = "queued"
    conflict: Literal["keep", "replace"] = "keep"

    def __post_init__(self) -> None:
        _check_key(self.key, "Unique")
        title = f"Unique({self.key!r}, …)"
        if isinstance(self.scope, timedelta):
            _check_seconds(self.scope, f"{title}: scope")
        elif self.scope not in ("queued", "running"):
            raise OptionError(f"{title}: scope must be 'queued', 'running' or a timedelta, not {self.scope!r}")
        if self.conflict not in ("keep", "replace"):
            raise OptionError(f"{title}: conflict must be 'keep' or 'replace', not {self.conflict!r}")


Limit: TypeAlias = Concurrency | RateLimit | Ordered


def unique_option(value: Any) -> Unique:
    """The option `unique`. Raises OptionError."""
    if isinstance(value, str):
        return Unique(value)
    if not isinstance(value, Unique):
        raise OptionError(f"unique must be a str or Unique(…), not {value!r}")
    return value


def limit_option(value: Any) -> tuple[Limit, ...]:
    """The option `limit`. Raises OptionError."""
    limits = (value,) if isinstance(value, Limit) else value
    if not isinstance(limits, Sequence) or not all(isinstance(one, Limit) for one in limits):
        raise OptionError(f"limit must be Concurrency(…), RateLimit(…), Ordered(…) or several of them, not {value!r}")
    if len(limits) > MAX_LIMITS:
        raise OptionError(
            f"limit takes at most {MAX_LIMITS} limits, not {len(limits)}; let jobs that share a limit share its key"
        )
    if (twice := _twice((type(one).__name__, one.key) for one in limits)) is not None:
        raise OptionError("limit has {}({!r}, …) twice".format(*twice))
    return tuple(limits)


def wrong_name(unique: Unique | None, limits: Iterable[Limit], signature: Signature) -> str | None:
    """What is wrong with the templates of a job: a name that is no parameter. None: nothing."""
    for title, key in _titled(unique, limits):
        for place in template_of(key).places:
            if place.name in signature.provided:
                return f"{_of(title, signature)}: {place.name!r} is made by the worker (Depends)"
            if place.name not in signature.named and not signature.takes_more:
                return f"{_of(title, signature)}: {_no_parameter(place, signature)}"
    return None


def unique_key(
    unique: Unique | None, signature: Signature, args: list[Any], kwargs: dict[str, Any]
) -> UniqueKey | None:
    """How a unique key travels with one call. Raises ArgumentsError: no key can be made of these arguments."""
    if unique is None:
        return None
    key = _key("unique", unique.key, signature, args, kwargs)
    replace = unique.conflict == "replace"
    if isinstance(unique.scope, timedelta):
        return UniqueKey(key=key, scope="window", seconds=as_seconds(unique.scope), replace=replace)
    return UniqueKey(key=key, scope=unique.scope, replace=replace)


def limit_keys(
    limits: Iterable[Limit], signature: Signature, args: list[Any], kwargs: dict[str, Any]
) -> tuple[LimitKey, ...]:
    """How limits travel with one call. Raises ArgumentsError: as `unique_key`, or two of one kind get one key."""
    keys = tuple(_limit_key(limit, _key("limit", limit.key, signature, args, kwargs)) for limit in limits)
    if (twice := _twice((key.kind, key.key) for key in keys)) is not None:
        raise ArgumentsError(f"{signature.names_text}: two limits get the key {twice[1]!r}. Nothing was enqueued.")
    return keys


def check_limit(limit: object, title: str) -> None:
    """Raise OptionError unless this can be the number of a limit."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise OptionError(f"{title}: limit must be an int from 1 to {MAX_LIMIT:_}, not {limit!r}")


def check_key(key: object, title: str) -> None:
    """Raise OptionError unless this can be a key."""
    if not isinstance(key, str) or not key:
        raise OptionError(f"{title} must be a str of 1 to {MAX_KEY_CHARS} characters, not {key!r}")
    if len(key) > MAX_KEY_CHARS:
        raise OptionError(
            f"{title} must be a str of 1 to {MAX_KEY_CHARS} characters, not of {len(key):_} ({key[:40]!r}…); "
            "make it of an id, or of a hash of what is long"
        )
    if (wrong := unkeepable(key)) is not None:
        raise OptionError(f"{title} {wrong}: {key!r}")


def _limit_key(limit: Limit, key: str) -> LimitKey:
    match limit:
        case Concurrency():
            return LimitKey(kind="concurrency", key=key, limit=limit.limit)
        case RateLimit():
            return LimitKey(kind="rate", key=key, limit=limit.limit, per=as_seconds(limit.per), window=limit.window)
        case Ordered():
            return LimitKey(kind="ordered", key=key)


def _key(option: str, text: str, signature: Signature, args: list[Any], kwargs: dict[str, Any]) -> str:
    title = _of(f'{option}="{text}"', signature)

    def argument(name: str) -> Any:
        try:
            value = signature.argument(name, args, kwargs)
        except KeyError:
            raise Unrenderable(_no_parameter(Placeholder(name), signature, kwargs)) from None
        if type(value) is Pending:
            raise Unrenderable(f"{name} is not known yet, as it is a result to come")
        return value

    try:
        return template_of(text).render(argument)
    except Unrenderable as error:
        end = " Nothing was enqueued." if str(error).endswith("?") else ". Nothing was enqueued."
        raise ArgumentsError(f"{title}: {error}{end}") from None


def _no_parameter(place: Placeholder, signature: Signature, more: Iterable[str] = ()) -> str:
    known = [*signature.named, *more]
    near = nearest(place.name, known)
    if not near:
        longer = [name for name in known if place.name in name.split("_")]
        near = f"; did you mean {longer[0]!r}?" if len(longer) == 1 else ""
    return f"no parameter {place.name!r}{near}"


def _titled(unique: Unique | None, limits: Iterable[Limit]) -> list[tuple[str, str]]:
    titled = [] if unique is None else [(f'unique="{unique.key}"', unique.key)]
    return titled + [(f'limit="{limit.key}"', limit.key) for limit in limits]


def _of(title: str, signature: Signature) -> str:
    return f"{title} of {signature.names_text}"


def _twice(pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        if pair in seen:
            return pair
        seen.add(pair)
    return None


def _check_key(key: object, kind: str) -> None:
    check_key(key, f"the key of {kind}(…)")
    template_of(str(key))


def _check_seconds(length: object, title: str) -> None:
    if isinstance(length, bool) or not isinstance(length, int | float | timedelta):
        raise OptionError(f"{title} must be seconds or a timedelta, not {length!r}")
    if not 0 < as_seconds(length) <= MAX_DELAY_SECONDS:
        raise OptionError(f"{title} must be more than 0 seconds and at most 10 years, not {length!r}")
