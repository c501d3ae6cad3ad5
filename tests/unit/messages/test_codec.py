"""Encoded envelopes are decoded unchanged; other bodies are refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker_jobs.messages import codec
from broker_jobs.messages.envelope import (
    MAX_DELAY_SECONDS,
    MAX_FACTOR,
    Envelope,
    Growth,
    Policy,
    is_generated_id,
    new_id,
    schema,
)

instants = st.datetimes(  # naive bounds: hypothesis adds the zone
    datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001
)  # fmt: skip
texts = st.text(st.characters(codec="utf-8"), max_size=20)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True)
lengths = st.floats(0, MAX_DELAY_SECONDS, allow_nan=False)
growths = st.builds(
    Growth,
    first=st.floats(0.001, 3e8),
    factor=st.floats(1, MAX_FACTOR),
    cap=st.floats(0.001, 3e8),
    jitter=st.floats(0, 1),
)
policies = st.builds(
    Policy,
    retries=st.integers(0, 1_000_000),
    backoff=st.none() | st.lists(lengths, max_size=4).map(tuple) | growths,
    timeout=st.none() | st.floats(0.001, 3e8),
    expires=st.none() | st.floats(0.001, 3e8),
    keep=st.none() | st.floats(0.001, 3e8),
    keep_result=st.none() | st.floats(0.001, 3e8),
)
envelopes = st.builds(
    Envelope,
    id=names,
    job=words.filter(bool),
    args=st.lists(values, max_size=3),
    kwargs=st.dictionaries(texts, values, max_size=3),
    queue=names,
    epoch=st.integers(0, 10**9),
    attempt=st.integers(1, 10**6),
    careful=st.booleans(),
    created_at=instants,
    due_at=st.none() | instants,
    recurring=st.none() | words,
    policy=policies,
    tags=st.lists(words, max_size=3).map(tuple),
    trace=st.none() | st.dictionaries(texts, texts, max_size=2),
)


@given(envelopes)
def test_every_envelope_survives_the_wire(envelope: Envelope) -> None:
    body = codec.encode(envelope)
    assert codec.decode(body) == envelope
    assert codec.decode(body.decode()) == envelope
    json.loads(body)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_reason_and_nothing_else(body: bytes) -> None:
    with pytest.raises(codec.Undecodable, match=r"\w"):
        codec.decode(body)


@given(values)
def test_arbitrary_json_is_refused_with_a_reason(value: Any) -> None:
    with pytest.raises(codec.Undecodable, match=r"\w"):
        codec.decode(json.dumps(value).encode())


def plain(**changes: Any) -> bytes:
    fields = {"id": "1", "job": "work", "created_at": "2026-01-01T00:00:00Z"} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xfe", "not UTF-8 JSON"),
        (b"[1]", "JSON of type list, not an object"),
        (plain(v=2), "message of version 2; this program reads version 1: upgrade it, then replay"),
        (plain(v=2, shiny=True), "message of version 2; this program reads version 1: upgrade it, then replay"),
        (plain(shiny=True), "shiny: Extra inputs are not permitted"),
        (plain(job=...), "job: Field required"),
        (plain(queue="a.#"), "queue: String should match pattern '^[A-Za-z0-9._-]{1,100}$'"),
        (plain(created_at="2026-01-01T00:00:00"), "created_at: Input should have timezone info"),
        (plain(args={}), "args: Input should be a valid array"),
        (plain(id="a b", epoch=-1), "id: String should match pattern '^[A-Za-z0-9._:@/+-]{1,100}$' (and 1 more)"),
        (b"[" * 100_000, "not UTF-8 JSON"),
    ],
)
def test_an_undecodable_body_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(codec.Undecodable) as caught:
        codec.decode(body)
    assert str(caught.value) == reason


def test_a_foreign_producer_needs_three_fields() -> None:
    envelope = codec.decode(plain())
    assert (envelope.queue, envelope.epoch, envelope.attempt, envelope.policy.retries) == ("default", 1, 1, 10)


def test_an_envelope_does_not_change() -> None:
    envelope = codec.decode(plain())
    with pytest.raises(ValidationError):
        envelope.epoch = 2  # type: ignore[misc]
    assert envelope.evolve(epoch=2).epoch == 2
    assert envelope.epoch == 1


def test_a_job_expires_after_it_was_created_or_due() -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = Envelope(id="1", job="w", created_at=made, policy=Policy(expires=60))
    assert envelope.expires_at() == made + timedelta(seconds=60)
    later = made + timedelta(hours=1)
    assert envelope.evolve(due_at=later).expires_at() == later + timedelta(seconds=60)
    assert envelope.evolve(policy=Policy()).expires_at() is None


def test_generated_ids_sort_by_time_and_are_recognized() -> None:
    made = [new_id() for _ in range(1_000)]
    assert made == sorted(made)
    assert len(set(made)) == 1_000
    assert all(is_generated_id(id) for id in made)
    assert not is_generated_id("welcome-42")
    assert not is_generated_id("6f5c1a52-0d3b-4a77-9c1e-6b6f6b657273")


def test_the_wire_has_a_schema() -> None:
    assert {"id", "job", "args", "queue", "policy"} <= set(schema()["properties"])
