"""Unique keys and limits as options: Unique, Concurrency, RateLimit, Ordered, and the keys made from their templates.

A key may be a template over the job's arguments: "user:{user_id}", "page:{site.host}". Braces work as in `str.format`,
but contain only an argument or one field of it. A str is inserted as it is, every other value as JSON, so that a
producer in another language makes the same key. A template is checked where it is written, and filled in where the job
is enqueued; the coordinator sees only keys. The file is over 300 lines, as the options are of no use without templates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from string import Formatter
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

from broker_jobs.clock import Seconds, as_seconds
from broker_jobs.errors import ArgumentsError, OptionError, nearest
from broker_jobs.function.pending import Pending
from broker_jobs.function.signature import Signature
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, MAX_KEY_CHARS, MAX_LIMITS, LimitKey, UniqueKey

MAX_LIMIT = 1_000_000


@dataclass(frozen=True)
class Concurrency:
    """At most `limit` jobs with this key run at once, on all workers together.

    @jobs.job(limit=Concurrency("smtp", 5))

    Args:
        key: 1 to 512 characters; may be a template: "tenant:{tenant_id}".
        limit: 1 to 1,000,000; `jobs.limits.set` changes it at run time.

    Raises:
        OptionError: one of them is out of range.
    """

    key: str
    limit: int

    def __post_init__(self) -> None:
        _check_key(self.key, "Concurrency")
        check_limit(self.limit, f"Concurrency({self.key!r}, …)")


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` jobs with this key start in `per` seconds. A retry counts as a start.

    @jobs.job(limit=RateLimit("api:{host}", 100, per=60))

    Args:
        key: 1 to 512 characters; may be a template.
        limit: 1 to 1,000,000; `jobs.limits.set` changes it at run time.
        per: seconds or a timedelta, more than 0 and at most ten years.
        window: "sliding" counts the starts in any span of that length; "fixed" begins a new count with each span.

    Raises:
        OptionError: one of them is out of range.
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
    """Jobs with this key run one at a time, in the order of their acceptance. A job keeps its turn through its retries.

    A job that waits for a parent, a batch or a time does not block the others. It keeps its turn: when the wait is
    over, it runs before all jobs that were accepted later.

    @jobs.job(limit=Ordered("account:{account_id}"))

    Args:
        key: 1 to 512 characters; may be a template.

    Raises:
        OptionError: the key is out of range.
    """

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key, "Ordered")


@dataclass(frozen=True)
class Unique:
    """Only one job with this key exists at a time.

    @jobs.job(unique=Unique("page:{url}", scope=timedelta(hours=1)))

    Args:
        key: 1 to 512 characters; may be a template.
        scope: "queued": until the job starts; "running": until it ends; a timedelta: so long from its acceptance, at
            most ten years.
        conflict: "keep": a later job becomes an alias of the first; "replace": it replaces the first, as long as that
            one has not started.

    Raises:
        OptionError: one of them is out of range.
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
    """Check the option `unique`. Raises OptionError."""
    if isinstance(value, str):
        return Unique(value)
    if not isinstance(value, Unique):
        raise OptionError(f"unique must be a str or Unique(…), not {value!r}")
    return value


def limit_option(value: Any) -> tuple[Limit, ...]:
    """Check the option `limit`. Raises OptionError."""
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


def template_error(unique: Unique | None, limits: Iterable[Limit], signature: Signature) -> str | None:
    """An error text if a template of a job names something that is no parameter, else None."""
    for title, key in _titled(unique, limits):
        for placeholder in template_of(key).placeholders:
            if placeholder.name in signature.provided:
                return f"{_of(title, signature)}: {placeholder.name!r} is provided by the worker (Depends)"
            if placeholder.name not in signature.named and not signature.takes_more:
                return f"{_of(title, signature)}: {_no_parameter(placeholder, signature)}"
    return None


def unique_key(
    unique: Unique | None, signature: Signature, args: list[Any], kwargs: dict[str, Any]
) -> UniqueKey | None:
    """The unique key of one call. Raises ArgumentsError if no key can be made of these arguments."""
    if unique is None:
        return None
    return _unique_key(unique, _key("unique", unique.key, signature, args, kwargs))


def limit_keys(
    limits: Iterable[Limit], signature: Signature, args: list[Any], kwargs: dict[str, Any]
) -> tuple[LimitKey, ...]:
    """The limits of one call. Raises ArgumentsError as `unique_key`, and if two limits of one kind get the same key."""
    keys = tuple(_limit_key(limit, _key("limit", limit.key, signature, args, kwargs)) for limit in limits)
    if (twice := _twice((key.kind, key.key) for key in keys)) is not None:
        raise ArgumentsError(f"{signature.names_text}: two limits get the key {twice[1]!r}. Nothing was enqueued.")
    return keys


def declared_unique(unique: Unique | None) -> UniqueKey | None:
    """The option `unique` as it is declared: its key is the template."""
    return None if unique is None else _unique_key(unique, unique.key)


def declared_limits(limits: Iterable[Limit]) -> tuple[LimitKey, ...]:
    """The option `limit` as it is declared: the keys are the templates."""
    return tuple(_limit_key(limit, limit.key) for limit in limits)


def filled(
    unique: UniqueKey | None, limits: Iterable[LimitKey], argument: Callable[[str], Any]
) -> tuple[UniqueKey | None, tuple[LimitKey, ...]]:
    """Declared options with the keys of one call. `argument` returns the JSON value of a parameter.

    Raises:
        ArgumentsError: no key can be made of these arguments, or two limits of one kind get the same key.
    """

    def key(option: str, text: str) -> str:
        try:
            return template_of(text).render(argument)
        except TemplateError as error:
            raise ArgumentsError(f'{option}="{text}": {error}') from None

    own = None if unique is None else unique.model_copy(update={"key": key("unique", unique.key)})
    keys = tuple(limit.model_copy(update={"key": key("limit", limit.key)}) for limit in limits)
    if (twice := _twice((each.kind, each.key) for each in keys)) is not None:
        raise ArgumentsError(f"two limits get the key {twice[1]!r}")
    return own, keys


def check_limit(limit: object, title: str, *, least: int = 1) -> None:
    """Raise OptionError unless this is a number from `least` to 1,000,000."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not least <= limit <= MAX_LIMIT:
        raise OptionError(f"{title}: limit must be an int from {least} to {MAX_LIMIT:_}, not {limit!r}")


def check_key(key: object, title: str) -> None:
    """Raise OptionError unless this is a text of 1 to 512 characters that the store can hold."""
    if not isinstance(key, str) or not key:
        raise OptionError(f"{title} must be a str of 1 to {MAX_KEY_CHARS} characters, not {key!r}")
    if len(key) > MAX_KEY_CHARS:
        raise OptionError(
            f"{title} must be a str of 1 to {MAX_KEY_CHARS} characters, not of {len(key):_} ({key[:40]!r}…); "
            "make it of an id, or of a hash of what is long"
        )
    if (wrong := text_error(key)) is not None:
        raise OptionError(f"{title} {wrong}: {key!r}")


def _unique_key(unique: Unique, key: str) -> UniqueKey:
    replace = unique.conflict == "replace"
    if isinstance(unique.scope, timedelta):
        return UniqueKey(key=key, scope="window", seconds=as_seconds(unique.scope), replace=replace)
    return UniqueKey(key=key, scope=unique.scope, replace=replace)


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
            raise TemplateError(_no_parameter(Placeholder(name), signature, kwargs)) from None
        if type(value) is Pending:
            raise TemplateError(f"{name} is not known yet, as it is the result of another job")
        return value

    try:
        return template_of(text).render(argument, signature.json_name)
    except TemplateError as error:
        end = " Nothing was enqueued." if str(error).endswith("?") else ". Nothing was enqueued."
        raise ArgumentsError(f"{title}: {error}{end}") from None


def _no_parameter(placeholder: Placeholder, signature: Signature, more: Iterable[str] = ()) -> str:
    known = [*signature.named, *more]
    near = nearest(placeholder.name, known)
    if not near:
        longer = [name for name in known if placeholder.name in name.split("_")]
        near = f"; did you mean {longer[0]!r}?" if len(longer) == 1 else ""
    return f"no parameter {placeholder.name!r}{near}"


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


# --- templates ---


class Placeholder(NamedTuple):
    """A part of a template to be filled in: the name of a parameter, and a field of it if one is given."""

    name: str
    field: str = ""


class TemplateError(Exception):  # turned into an ArgumentsError, which names the job and the option
    """No key can be made of these arguments; the text is the reason."""


class Template(NamedTuple):
    """A key with placeholders."""

    parts: tuple[tuple[str, Placeholder | None], ...]
    """Each text, and the placeholder after it."""

    @property
    def placeholders(self) -> list[Placeholder]:
        """The placeholders, in order."""
        return [placeholder for _, placeholder in self.parts if placeholder is not None]

    def render(self, argument: Callable[[str], Any], json_name: Callable[[str, str], str] | None = None) -> str:
        """The key of one call.

        Args:
            argument: returns the JSON value of a parameter.
            json_name: returns the name that a field of a parameter has in JSON, which may be an alias.

        Raises:
            TemplateError: a field is missing, or the key is empty or too long.
        """
        key = "".join(text + ("" if part is None else _fill_in(part, argument, json_name)) for text, part in self.parts)
        if not key:
            raise TemplateError("the key is empty")
        if len(key) > MAX_KEY_CHARS:
            raise TemplateError(
                f"the key has {len(key):_} characters, the limit is {MAX_KEY_CHARS}: {key[:40]!r}…; "
                "make it of an id, or of a hash of what is long"
            )
        if (wrong := text_error(key)) is not None:
            raise TemplateError(f"the key {wrong}: {key!r}")
        return key


@lru_cache(maxsize=1_024)
def template_of(text: str) -> Template:
    """Parse a template.

    Raises:
        OptionError: its braces do not match, or contain anything but a parameter or one field of it.
    """
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise OptionError(f"{text!r} is not a valid key: {error} (write a literal brace twice)") from None
    parts: list[tuple[str, Placeholder | None]] = []
    for literal, field, format_spec, conversion in pieces:
        plain = not (format_spec or conversion)
        parts.append((literal, None if field is None else _placeholder(text, field, plain=plain)))
    return Template(tuple(parts))


def text_error(text: str) -> str | None:
    """Why the store cannot hold a text, as the end of a sentence; None if it can."""
    if "\0" in text:
        return "contains a null character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a character (a lone surrogate)"
    return None


def _placeholder(text: str, field: str, *, plain: bool) -> Placeholder:
    name, *fields = field.split(".")
    if not plain or len(fields) > 1 or not all(part.isidentifier() for part in (name, *fields)):
        raise OptionError(
            f"{text!r} is not a valid key: braces contain a parameter or one field of it, as {{user_id}} or {{user.id}}"
        )
    return Placeholder(name, *fields)


def _fill_in(
    placeholder: Placeholder, argument: Callable[[str], Any], json_name: Callable[[str, str], str] | None
) -> str:
    value = argument(placeholder.name)
    if field := placeholder.field:
        if isinstance(value, dict) and field not in value and json_name is not None:
            field = json_name(placeholder.name, field)
        if not isinstance(value, dict) or field not in value:
            raise TemplateError(f"{placeholder.name} has no {field!r}")
        value = value[field]
    return value if isinstance(value, str) else to_json(value).decode()
