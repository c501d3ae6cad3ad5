"""Enqueue from a logging handler, from a signal handler, interrupted, given up: it ends, and stops nothing else."""

import asyncio
import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from broker_jobs import BrokerJobs, EnqueueError, UsageError
from broker_jobs.broker.interface import Message
from tests.support.callbacks import in_the_io_thread
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

WORK = "jobs.v1.work.nobody-serves"


class Enqueues(logging.Handler):
    """Makes a job of each warning, and catches nothing."""

    def __init__(self, jobs: BrokerJobs) -> None:
        super().__init__(logging.WARNING)
        self.job = jobs.remote("tell", queue="nobody-serves")
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Enqueue it, and note that this has returned."""
        self.job.enqueue(record.getMessage())
        self.texts.append(record.getMessage())


@contextmanager
def handled(handler: logging.Handler) -> Iterator[None]:
    """Have a handler at the root."""
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.fixture
def jobs(vhost: Vhost) -> Iterator[BrokerJobs]:
    """A producer with a queue that nobody serves."""
    producer = BrokerJobs(vhost.url)
    producer.queues.declare("nobody-serves")
    yield producer
    producer.stop()


def test_a_logging_handler_enqueues_what_the_connection_says(jobs: BrokerJobs, vhost: Vhost) -> None:
    handler = Enqueues(jobs)
    with handled(handler):
        vhost.close_connections()
        eventually(lambda: any("lost the connection" in text for text in handler.texts), 60, "enqueued by the handler")
        with ThreadPoolExecutor(1) as aside:
            assert aside.submit(handler.job.enqueue, "again").result(60).id


@pytest.mark.filterwarnings("ignore:.*blocks the event loop")
def test_a_logging_handler_enqueues_in_every_part_of_a_program(tmp_path: Path) -> None:
    jobs = BrokerJobs("memory://", store=f"sqlite:///{tmp_path / 'store.db'}")
    told: list[str] = []

    @jobs.job
    def tell(text: str) -> None:
        told.append(text)

    @jobs.job
    async def warn_on_the_loop() -> None:
        logging.getLogger("mine").warning("on the loop")

    @jobs.job(retries=0)
    def fail() -> None:
        raise ValueError("in a thread")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell.enqueue(record.getMessage())

    jobs.start()
    try:
        with handled(Handler(logging.WARNING)):
            warn_on_the_loop.enqueue()
            fail.enqueue()
            jobs.remote("nobody knows me").enqueue()  # what is said of it is said in the I/O thread
            for text in ("on the loop", "in a thread", "nobody knows me"):
                eventually(lambda text=text: any(text in each for each in told), 60, text)  # type: ignore[misc]
    finally:
        jobs.stop(5)


@pytest.mark.parametrize("where", ["memory", "rabbitmq"])
@pytest.mark.parametrize("call", ["enqueue", "enqueue_many", "result", "batch"])
def test_a_call_in_the_io_thread_is_refused_and_says_what_to_do(where: str, call: str, vhost: Vhost) -> None:
    jobs = BrokerJobs("memory://" if where == "memory" else vhost.url)
    job = jobs.remote("tell")

    def refused() -> None:
        match call:
            case "enqueue":
                job.enqueue("text")
            case "enqueue_many":
                jobs.enqueue_many([job.bind("text")])
            case "result":
                jobs.receipt("unknown").result()
            case _:
                with jobs.batch() as batch:
                    batch.enqueue(job, "text")

    try:
        with pytest.raises(UsageError, match="QueueHandler"):
            in_the_io_thread(jobs._connection.broker(), Message("jobs.v1.offer", "log", b"{}"), refused)
    finally:
        jobs.stop()


PROGRAM = """
import itertools, os, random, signal, sys, threading, time
from broker_jobs import BrokerJobs

jobs = BrokerJobs(sys.argv[1])
if sys.argv[1].startswith("memory"):
    jobs.start(roles=["coordinator"])
jobs.queues.declare("nobody-serves")
job = jobs.remote("tell", queue="nobody-serves")
job.enqueue(0)


class Interrupted(Exception):
    pass


def interrupt(*_):
    if sys.argv[2] == "raise":
        raise Interrupted
    job.enqueue("from the handler")


def other():
    # The deadline of a call that hangs is the library's; this is for one whose deadline hangs too.
    job.enqueue("from another thread")
    done.set()


signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(7)
cut = 0
until = time.monotonic() + float(sys.argv[3])
while time.monotonic() < until:
    done = threading.Event()
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.0006))
        try:
            job.enqueue(1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Exception:
        cut += 1
threading.Thread(target=other, daemon=True).start()
print("alive" if done.wait(40) else "hangs", cut, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("what", ["raise", "enqueue"])
@pytest.mark.parametrize("where", ["memory", "rabbitmq"])
def test_a_signal_that_interrupts_an_enqueue_leaves_the_others_alive(where: str, what: str, vhost: Vhost) -> None:
    url = "memory://" if where == "memory" else vhost.url
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, what, "4"],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("alive"), done.stdout + done.stderr[-2000:]
    assert what == "enqueue" or int(done.stdout.split()[1]) > 10


def run_program(text: str, *arguments: str) -> str:
    """What a program of its own writes."""
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


FORKED = """
import os, sys, threading
from broker_jobs import BrokerJobs

jobs = BrokerJobs(sys.argv[1])
ids = []

def enqueue():
    ids.append(jobs.remote("tell", queue="nobody-serves").enqueue().id)

enqueue()
if (pid := os.fork()) == 0:
    # The first of them gets the number that the I/O thread has in the parent, and none has it before.
    threads = [threading.Thread(target=enqueue) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    print(len(ids) == 6, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
os._exit(0)
"""


def test_every_thread_of_a_forked_child_can_enqueue(jobs: BrokerJobs, vhost: Vhost) -> None:
    jobs.remote("tell", queue="nobody-serves").enqueue()  # its queue exists
    assert run_program(FORKED, vhost.url) == "True\n"


STOPPED = """
import os, signal, socket, sys, threading, time
os.environ["BROKER_JOBS_PUBLISH_TIMEOUT"] = "3"
from broker_jobs import BrokerJobs, EnqueueError

silent = socket.create_server(("127.0.0.1", 0))  # takes connections and never answers
jobs = BrokerJobs(f"amqp://127.0.0.1:{silent.getsockname()[1]}/")

def enqueue():
    try:
        jobs.remote("tell").enqueue()
    except EnqueueError:
        print("not enqueued", flush=True)

def stop(*_):
    jobs.stop()
    print("stopped", flush=True)

if sys.argv[1] == "handler":
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 1)
    enqueue()
else:
    threading.Thread(target=enqueue, daemon=True).start()
    time.sleep(1)
    if (pid := os.fork()) == 0:
        stop()
        os._exit(0)
    os.waitpid(pid, 0)
os._exit(0)
"""


@pytest.mark.parametrize("where", ["handler", "child"])
def test_a_stop_waits_for_no_connection_that_its_own_thread_or_its_parent_makes(where: str) -> None:
    assert run_program(STOPPED, where).startswith("stopped")


def test_what_is_given_up_is_forgotten_and_never_goes_out(
    vhost: Vhost, jobs: BrokerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "1")
    impatient = BrokerJobs(vhost.url)
    job = impatient.remote("tell", queue="nobody-serves")
    job.enqueue("before")
    vhost.broker.alarm(memory=True)
    try:
        _until_blocked(job)

        def give_up(number: int) -> None:
            with pytest.raises(EnqueueError, match="blocks publishing"):
                job.enqueue(f"{number:06}" * 33_000)

        def memory_after(count: int) -> int:
            list(many.map(give_up, range(count)))
            gc.collect()
            return psutil.Process().memory_info().rss

        with ThreadPoolExecutor(50) as many:
            first = memory_after(300)  # the allocator takes for its threads what it needs
            assert memory_after(400) - first < 40 * 2**20  # 80 MB in all

        async def cancel() -> None:
            tasks = [asyncio.create_task(job.enqueue_async("cancelled")) for _ in range(5)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(cancel())
    finally:
        vhost.broker.alarm(memory=False)
    job.enqueue("after")
    impatient.stop()
    texts = [body for body in vhost.drain(WORK) if b"after" in body or b"cancelled" in body or len(body) > 100_000]
    assert [b"after" in body for body in texts] == [True]


def test_thousands_that_are_given_up_at_once_keep_no_other_call_waiting(vhost: Vhost, jobs: BrokerJobs) -> None:
    job = jobs.remote("tell", queue="nobody-serves")
    job.enqueue("before")
    vhost.broker.alarm(memory=True)
    try:

        async def cancel() -> float:
            tasks = [asyncio.create_task(job.enqueue_async("cancelled")) for _ in range(8_000)]
            await asyncio.sleep(4)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            started = time.monotonic()
            assert await asyncio.to_thread(jobs._connection.broker().depth, WORK, 60)
            return time.monotonic() - started

        assert asyncio.run(cancel()) < 2.5  # it was 5 s on a machine with nothing else to do, and four times for twice
    finally:
        vhost.broker.alarm(memory=False)
    assert job.enqueue("after").id


def _until_blocked(job: object) -> None:
    """RabbitMQ says that it blocks when the first message comes; that one may be taken."""

    def blocked() -> bool:
        try:
            job.enqueue("is it blocked?")  # type: ignore[attr-defined]
        except EnqueueError as error:
            return "blocked" in str(error)
        return False

    eventually(blocked, 60, "blocked")
