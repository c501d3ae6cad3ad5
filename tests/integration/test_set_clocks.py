"""A process whose wall clock is wrong, or is set while it works: nothing is lost, early or done twice."""

import time

import pytest

from broker_jobs.messages.state import State
from tests.conftest import made
from tests.support.faketime import FakeClock
from tests.support.system import PRODUCER_PROGRAM, Lodger, System
from tests.support.wait import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

HOUR, DAY = 3_600.0, 86_400.0
SINCE_1970 = -(time.time() - DAY)


def produced(system: System) -> dict[str, list[str]]:
    """The accepted ids by kind, ready and delayed."""
    found: dict[str, list[str]] = {"ready": [], "delayed": []}
    file = system.folder / "produced"
    for line in file.read_text().splitlines() if file.exists() else []:
        kind, id = line.split()
        found[kind].append(id)
    return found


@pytest.mark.parametrize("who", ["coordinator", "worker", "producer"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(0.0, HOUR, id="set ahead by an hour"),
        pytest.param(0.0, -HOUR, id="set back by an hour"),
        pytest.param(SINCE_1970, SINCE_1970, id="in 1970"),
        pytest.param(DAY, -DAY, id="a day ahead, then a day behind"),
    ],
)
def test_a_wrong_clock_loses_nothing_and_runs_nothing_early_or_twice(
    system: System, who: str, first: float, then: float
) -> None:
    clock = made(lambda: FakeClock(system.folder))
    clock.set(first)
    parts: dict[str, Lodger] = {}
    for role in ("coordinator", "worker", "producer"):
        own = clock if role == who else None
        program = PRODUCER_PROGRAM if role == "producer" else None
        parts[role] = system.start(role, clock=own, program=program, slot="1")
    eventually(lambda: len(produced(system)["ready"]) >= 20 and len(system.ended()) >= 20, 60, "jobs run")
    clock.set(then)
    before = len(produced(system)["ready"])
    eventually(lambda: len(produced(system)["ready"]) >= before + 60, 60, "more jobs are accepted")
    parts["producer"].leave()
    parts["producer"].left()
    ids = produced(system)
    system.succeeded_soon(ids["ready"])
    # Accepted is what is in the log; the coordinator reads the last of it a moment later.
    eventually(lambda: len(system.rows(ids["delayed"])) == len(ids["delayed"]), 60, "all delayed jobs are known")
    waiting = [id for id, row in system.rows(ids["delayed"]).items() if not row.state.is_final]
    coordinator_now = clock.now() if who == "coordinator" else time.time()
    for id in waiting:
        row = system.row(id)
        if row.state is State.SCHEDULED and (row.due_at or 0.0) > coordinator_now + 5.0:
            assert system.starts()[id] == 0, f"{id} ran before its time: {row.history}"
            system.jobs.program.receipt(id).requeue()  # or the test would wait for an hour
    system.succeeded_soon(ids["delayed"])
    assert set(system.starts()) == {*ids["ready"], *ids["delayed"]}
    assert set(system.starts().values()) == {1}
    system.nothing_broken()
