"""Short runs of the fuzzer, with a fixed and with a fresh seed, and what it must reach to be of use."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.roles import COMMANDS
from broker_jobs.coordinator.input_queue import READERS, _read
from broker_jobs.coordinator.inputs import CommandReceived, Unreadable
from broker_jobs.coordinator.records import FromWorker
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Returned
from broker_jobs.messages.new_id import new_id
from tests.fuzz.deliveries import READ, ROADS, Messages
from tests.fuzz.fuzz import fuzz
from tests.fuzz.values import body_of, envelope

BODIES = 1_500


@pytest.mark.parametrize("seed", ["fixed", "fresh"])
def test_hostile_messages_find_nothing(tmp_path: Path, seed: str) -> None:
    seed = seed if seed == "fixed" else new_id()
    result = fuzz(f"sqlite:///{tmp_path / 'store.db'}", seed, BODIES)
    assert result.findings == [], f"seed {seed}"
    assert result.bodies >= BODIES
    assert result.dead_letters > BODIES / 10
    assert result.jobs > 100


@pytest.mark.postgres
@pytest.mark.parametrize("seed", ["fixed", "fresh"])
def test_hostile_messages_find_nothing_in_postgresql(postgres_url: str, seed: str) -> None:
    seed = seed if seed == "fixed" else new_id()
    result = fuzz(postgres_url, seed, BODIES // 3)
    assert result.findings == [], f"seed {seed}"
    assert result.jobs > 100


def test_equal_seeds_make_equal_messages() -> None:
    def some(seed: int) -> list[Delivery]:
        messages = Messages(seed)
        return [messages.next() for _ in range(50)]

    assert some(1) == some(1) != some(2)


@pytest.mark.parametrize("model", READ, ids=lambda model: model.__name__)
def test_what_is_made_of_a_model_is_sound(model: type[Envelope]) -> None:
    chance = random.Random(1)
    for _ in range(50):
        made = envelope(chance) if model is Envelope else body_of(model, chance)
        model.model_validate_json(json.dumps(made))


def test_each_type_from_each_exchange_is_made_and_some_of_it_believed() -> None:
    messages, believed, kinds = Messages(1, hostile=0.2), set(), set()
    for _ in range(6_000):
        one = messages.next()
        for read in _read(READERS[one.queue], one):
            if isinstance(read, Unreadable):
                continue
            believed.add((one.queue, one.exchange, one.type))
            if isinstance(read, CommandReceived):
                kinds.add(read.command.kind)
    assert believed >= set(ROADS) - {
        (names.DEAD_LETTERS, names.DEAD, "job")
    }  # what workers send there is believed of nothing
    assert kinds == {kind for each in COMMANDS.values() for kind in each}


def test_a_job_created_in_the_last_microsecond_can_be_returned() -> None:
    """As a float its time is the first moment of the year 3000."""
    body = json.dumps({"id": "j", "job": "work", "created_at": "2999-12-31T23:59:59.999999Z"}).encode()
    sound = Delivery(1, 1, names.LOG, body, True, names.RETURNED, "k", "job", "m", None, None, 0, dead_lettered=True)
    (read,) = _read(READERS[names.LOG], sound)
    assert isinstance(read, FromWorker)
    assert isinstance(read.event, Returned)
