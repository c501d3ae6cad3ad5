"""A busy program whose every text is hostile: names, arguments, tags, titles, errors, lines, keys and messages.

For the tests of what is shown to people: in pages, in the API, in a browser.
"""

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from broker_jobs import BrokerJobs, Concurrency, GiveUp, Ordered, RateLimit, current_job
from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.producer.batch import Batch
from broker_jobs.producer.receipt import Receipt
from tests.support.wait import eventually

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
TEMPLATE = "{{7*7}}{% raw %}"
LONG = "Donaudampfschifffahrtsgesellschaft" * 5
RIGHT_TO_LEFT = "\u202egnp.exe"
EMOJI = "👩‍🚀🏴‍☠️"
ALL = f"{SCRIPT} {IMAGE} {TEMPLATE} {RIGHT_TO_LEFT} {EMOJI} ' & \\"
"""Every kind but the long one."""

SLASHED = f"tenant/7/{SCRIPT}?a=b&c=d#e 100%"
"""A name of a recurring job with all that addresses are made of."""
JOB = f"greet {SCRIPT}"
LONG_QUEUE = "queue-" + "x" * 94
UNSERVED = "nobody-serves-this"
EVENT = "user.registered"
GARBAGE = f"<b>{SCRIPT}</b> no JSON at all {RIGHT_TO_LEFT}".encode() + b"\xff\x00\x1b[31m"


@dataclass
class Hostile:
    """A program, and what it has made; `made` holds receipts by a plain word."""

    program: BrokerJobs
    gate: threading.Event = field(default_factory=threading.Event)
    """Running jobs end when it is set."""
    mended: threading.Event = field(default_factory=threading.Event)
    """From then on what has failed succeeds."""
    made: dict[str, Receipt[Any]] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[str, ...]:
        """The queues its worker serves."""
        return ("default", "mail", LONG_QUEUE)


def hostile(url: str = "memory://", store: str | None = None) -> Hostile:
    """The program; nothing is started. Its jobs are in `jobs` by a plain word."""
    program = BrokerJobs(url, store=store, service="hostile")
    system = Hostile(program)

    @program.job(name=JOB, tags=[SCRIPT, EMOJI], retries=0)
    def greet(who: str, password: str = "hunter2") -> str:
        """Greet <b>somebody</b>."""
        current_job().log(f"greeting {who}")
        return f"hello {who}"

    @program.job(retries=0)
    def fail(text: str) -> str:
        current_job().log(text)
        if system.mended.is_set() or text == "fine":
            return text
        raise ValueError(text)

    @program.job(retries=3, backoff=[3600])
    def fail_later(text: str) -> None:
        raise RuntimeError(text)

    @program.job(queue="mail", retries=0)
    def hold(text: str) -> str:
        current_job().progress(1, 3)
        current_job().log(text)
        system.gate.wait(60)
        return text

    @program.job(queue="mail", retries=0)
    def linger(text: str) -> None:
        while not system.gate.wait(0.05):
            current_job().raise_if_cancelled()

    @program.job(limit=[Concurrency(f"smtp {SCRIPT}", 1), RateLimit("api", 100, per=60)], queue="mail")
    def limited(text: str) -> str:
        system.gate.wait(60)
        return text

    @program.job(limit=Ordered(f"account/{SCRIPT}"))
    def ordered(number: int) -> int:
        return number

    @program.subscribe(EVENT)
    @program.job
    def subscribed(text: str) -> str:
        return text

    @program.job
    def load(row: int, text: str) -> int:
        if row < 0 and not system.mended.is_set():
            raise GiveUp(text)
        return row

    program.recurring("declared/in/code", "0 9 * * MON", greet.bind(SCRIPT), tz="Europe/Istanbul")
    system.jobs = {
        "greet": greet, "fail": fail, "fail_later": fail_later, "hold": hold, "limited": limited, "ordered": ordered,
        "load": load, "linger": linger,
    }  # fmt: skip
    return system


def fill(system: Hostile) -> Hostile:
    """Start the program and make something of everything; returns when all of it is there."""
    program, jobs, made = system.program, system.jobs, system.made
    program.start(queues=system.runs, concurrency=8)
    program.queues.declare(UNSERVED)

    made["succeeded"] = jobs["greet"].enqueue(ALL)
    made["long"] = jobs["greet"].using(queue=LONG_QUEUE, tags=[LONG[:100]]).enqueue(LONG)
    made["failed"] = jobs["fail"].using(tags=[IMAGE]).enqueue(f"{ALL}\nsecond line {SCRIPT}")
    made["retry"] = jobs["fail_later"].enqueue(ALL)
    made["running"] = jobs["hold"].enqueue(ALL)
    made["scheduled"] = jobs["greet"].schedule(timedelta(days=3), ALL)
    made["deleted"] = jobs["greet"].schedule(timedelta(days=3), "deleted")
    made["deleted"].delete()
    made["waiting"] = jobs["greet"].after(made["running"]).enqueue(ALL)
    made["unserved"] = jobs["greet"].using(queue=UNSERVED).enqueue(ALL)
    for number in range(3):
        made[f"limited {number}"] = jobs["limited"].enqueue(f"{number} {SCRIPT}")
        made[f"ordered {number}"] = jobs["ordered"].enqueue(number)
    program.publish(EVENT, ALL)

    with program.batch(f"import {ALL}") as batch:
        for row in range(4):
            batch.enqueue(jobs["load"], row, "fine")
        for row in range(3):
            batch.enqueue(jobs["load"], -1 - row, f"no such row {SCRIPT}")
        with batch.batch(f"inside {SCRIPT}") as inside:
            inside.enqueue(jobs["load"], -9, f"another error {RIGHT_TO_LEFT}")
            inside.enqueue(jobs["load"], 9, "fine")
    system.batches |= {"import": batch, "inside": inside}
    with program.batch("after the import", after=batch, on="finished") as later:
        later.enqueue(jobs["hold"], SCRIPT)
    system.batches["later"] = later
    with program.batch("") as untitled:
        untitled.enqueue(jobs["load"], 1, "fine")
    system.batches["untitled"] = untitled

    program.recurring.put(SLASHED, "*/5 * * * *", jobs["greet"].bind(ALL), tz="America/New_York")
    program.recurring.put("every second", "* * * * * *", jobs["greet"].bind("tick"), overlap="skip", misfire="skip")
    made["triggered"] = program.recurring.trigger(SLASHED)
    program.recurring.pause("every second")
    program.limits.set("api", 50)
    _dead_letter(program)

    for word in ("succeeded", "long", "failed", "triggered", "ordered 2"):
        _ended(made[word])
    for word in ("import", "inside", "untitled"):
        batch_of = system.batches[word]
        eventually(lambda b=batch_of: b.state().is_final, what=f"the end of the batch {word}")  # type: ignore[misc]
    eventually(lambda: made["running"].state() == "processing", what="a running job")
    eventually(lambda: made["retry"].state() == "scheduled", what="a job that is to be retried")
    return system


def _ended(receipt: Receipt[Any]) -> None:
    eventually(lambda: receipt.state().is_final, what=f"the end of {receipt.id}")


def _dead_letter(program: BrokerJobs) -> None:
    """Send what nobody can read, to everybody who reads."""
    connection = program._connection
    sent = connection.broker().publish(
        [
            Message(names.REPORT, names.LOG_KEY, GARBAGE, type="events", message_id=f"log/{SCRIPT}"),
            Message(names.OPERATE, names.COMMAND_KEY, b'{"kind":"drop tables","password":"hunter2"}', "command", "c 1"),
            Message(names.WORK, "default", b'{"v":99,"text":"' + SCRIPT.encode() + b'"}', message_id="work"),
        ]
    )
    assert sent.result(20) == [None, None, None]
