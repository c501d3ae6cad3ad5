"""A program that makes every call of a producer in one place from which programs make them: `python -m` this module.

Arguments: the broker's address, the place. A call ends, with a value or an error of ours; one that does not is shown
with the stacks of all threads, and the exit code is 1. Each call prints one line.
"""

# ruff: noqa: SIM105

import asyncio
import atexit
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

os.environ.setdefault("BROKER_JOBS_PUBLISH_TIMEOUT", "0.5")

from broker_jobs import BrokerJobs, BrokerJobsError
from broker_jobs.broker.interface import Message
from tests.support.callbacks import in_the_io_thread

HANGS_AFTER = float(os.environ.get("BROKER_JOBS_TEST_HANGS_AFTER", "100"))
"""Seconds; a call has a publish timeout of half a second, and on a loaded machine some more."""

url, place = sys.argv[1:3]
jobs = BrokerJobs(url)
job = jobs.remote("tell", queue="nobody-serves")


@jobs.job
def local(text: str = "") -> None:
    del text


def _batch() -> str:
    with jobs.batch("import") as batch:
        batch.enqueue(job, "in a batch")
    return batch.id


async def _batch_async() -> str:
    async with jobs.batch("import") as batch:
        batch.enqueue(job, "in a batch")
    return batch.id


CALLS: dict[str, Callable[[], object]] = {
    "enqueue": lambda: job.enqueue("text"),
    "schedule": lambda: job.schedule(timedelta(days=1), "text"),
    "enqueue_many": lambda: jobs.enqueue_many([job.bind(number) for number in range(3)]),
    "batch": _batch,
    "publish": lambda: jobs.publish("told", "text"),
    "state": lambda: jobs.receipt("unknown").state(),
    "result": lambda: jobs.receipt("unknown").result(timeout=1),
    "delete": lambda: jobs.receipt("unknown").delete(),
    "put": lambda: jobs.recurring.put("daily", "0 9 * * *", local),
    "pause": lambda: jobs.queues.pause("nobody-serves"),
}
ASYNC_CALLS: dict[str, Callable[[], Any]] = {
    "enqueue": lambda: job.enqueue_async("text"),
    "schedule": lambda: job.schedule_async(timedelta(days=1), "text"),
    "enqueue_many": lambda: jobs.enqueue_many_async([job.bind(number) for number in range(3)]),
    "batch": _batch_async,
    "publish": lambda: jobs.publish_async("told", "text"),
    "state": lambda: jobs.receipt("unknown").state_async(),
    "result": lambda: jobs.receipt("unknown").result_async(timeout=1),
}


class Interrupted(BaseException):
    """Raised by a signal handler, as KeyboardInterrupt is."""


def say(line: str) -> None:
    """Write a line at once, whatever other threads and processes write."""
    os.write(1, f"{line}\n".encode())


def ended(name: str, value: object, label: str = "") -> None:
    """Say how a call ended; an error that is not ours ends the program."""
    if isinstance(value, BaseException) and not isinstance(value, BrokerJobsError | Interrupted):
        say(f"{label}{name} wrong {value!r}")
        faulthandler.dump_traceback()
        os._exit(1)
    say(f"{label}{name} {type(value).__name__} {str(value)[:100]}")


def make(name: str, call: Callable[[], object], label: str = "") -> None:
    """Make one call, and say how it ended."""
    try:
        value: object = call()
    except BaseException as error:  # noqa: BLE001  # what may come is decided in `ended`
        value = error
    ended(name, value, label)


def make_all(label: str = "") -> None:
    """Make every call, one after the other."""
    for name, call in CALLS.items():
        make(name, call, label)


def in_threads(label: str = "") -> None:
    """Make every call, each in a thread of its own."""
    threads = [threading.Thread(target=make, args=(name, call, label)) for name, call in CALLS.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def opened() -> None:
    """Have a connection, and the queue."""
    if url.startswith("memory"):
        jobs.start(roles=["coordinator"])
    jobs.queues.declare("nobody-serves")
    job.enqueue("first")


# --- the places ---


def io_thread() -> None:
    opened()
    for name, call in CALLS.items():

        def once(call: Callable[[], object] = call) -> object:
            try:
                return call()
            except BrokerJobsError as error:
                return error

        ended(name, in_the_io_thread(jobs._connection.broker(), Message("jobs.v1.offer", "log", b"{}"), once))


def _signals() -> Iterator[str]:
    """Each call in a handler, in the midst of each call."""
    for inner, call in CALLS.items():

        def handler(*_: object, inner: str = inner, call: Callable[[], object] = call) -> None:
            make(inner, call, "handler ")

        signal.signal(signal.SIGALRM, handler)
        yield inner


INTERRUPTED = ("enqueue", "batch", "state")
"""The calls in the midst of which a handler makes each of them."""


def signal_handler() -> None:
    opened()
    for _ in _signals():
        for name in INTERRUPTED:
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            make(name, CALLS[name])
            signal.setitimer(signal.ITIMER_REAL, 0)
    in_threads("after ")


def signal_handler_while_it_connects() -> None:
    for _ in _signals():
        for name in INTERRUPTED:
            signal.setitimer(signal.ITIMER_REAL, 0.004)
            make(name, CALLS[name])
            signal.setitimer(signal.ITIMER_REAL, 0)
            jobs.stop()
    in_threads("after ")


INTERRUPTS = 150
"""How often each call is interrupted, at points that are spread evenly over its steps."""


def interrupted() -> None:
    jobs.start(roles=["coordinator"])
    jobs.queues.declare("nobody-serves")
    job.enqueue("first")
    for name, call in CALLS.items():
        _interrupt(name, call, 20 if name in {"state", "result"} else INTERRUPTS)  # they wait for a job unknown
    in_threads("after ")


def interrupted_while_it_connects() -> None:
    def first() -> None:
        jobs.stop()
        job.enqueue("first")

    _interrupt("enqueue", first, INTERRUPTS)
    in_threads("after ")


def _interrupt(name: str, call: Callable[[], object], times: int) -> None:
    steps = _traced(call, at=None)
    for number in range(times):
        at = 1 + number * steps // times
        _traced(call, at)
        if number % 10 == 0:
            _still_alive(f"{name} interrupted up to step {at} of {steps}")


def _traced(call: Callable[[], object], at: int | None) -> int:
    """Make a call, with an exception at its n-th step: where a handler of a signal may raise. Returns its steps."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        if event == "call":
            if "/broker_jobs/" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
        elif event == "opcode":
            count += 1
            if count == at:
                sys.settrace(None)
                raise Interrupted
        return trace

    sys.settrace(trace)
    try:
        call()
    except (BrokerJobsError, Interrupted):
        pass
    finally:
        sys.settrace(None)
    return count


def _still_alive(what: str) -> None:
    """An enqueue of another thread gets through."""
    alive = threading.Event()

    def enqueue() -> None:
        while not alive.is_set():
            try:
                job.enqueue("from another thread")
                alive.set()
            except BrokerJobsError:
                continue

    threading.Thread(target=enqueue, daemon=True).start()
    if not alive.wait(HANGS_AFTER / 4):
        say(f"{what}: all others hang")
        faulthandler.dump_traceback()
        os._exit(1)


def forked() -> None:
    opened_here = threading.Event()
    if not url.startswith("memory"):
        opened()
    else:
        job.enqueue("first")

    def busy() -> None:
        while True:
            for call in CALLS.values():
                opened_here.set()
                try:
                    call()
                except BrokerJobsError:
                    pass

    for _ in range(3):
        threading.Thread(target=busy, daemon=True).start()
    opened_here.wait()
    _fork_and_make_all(8)


def forked_after_start() -> None:
    jobs.start(roles=["coordinator"]) if url.startswith("memory") else opened()
    jobs._connection.mark_started(started=True)
    _fork_and_make_all(1)
    make_all("parent ")


def _fork_and_make_all(times: int) -> None:
    children = []
    for number in range(times):
        time.sleep(0.003 * number)
        if (pid := os.fork()) == 0:
            faulthandler.register(signal.SIGALRM, chain=True)  # the thread of the other watchdog is not in a child
            signal.alarm(int(HANGS_AFTER))
            in_threads(f"child {number} ")
            jobs.stop()
            os._exit(0)
        children.append(pid)
    for pid in children:
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            os._exit(1)


async def _gather(label: str) -> None:
    async def one(name: str, call: Callable[[], Any]) -> None:
        try:
            value: object = await call()
        except BaseException as error:  # noqa: BLE001
            value = error
        ended(name, value, label)

    await asyncio.gather(*(one(name, call) for name, call in ASYNC_CALLS.items()))


def loops() -> None:
    for number in range(3):
        asyncio.run(_gather(f"loop {number} "))
    threads = [threading.Thread(target=lambda: asyncio.run(_gather("beside "))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def cut_off() -> None:
        for call in ASYNC_CALLS.values():
            task = asyncio.ensure_future(call())
            await asyncio.sleep(0)
            del task

    for _ in range(5):
        asyncio.run(cut_off())  # cancels what still runs, and closes its loop
    asyncio.run(_gather("after "))


def at_exit() -> None:
    opened()
    atexit.register(make_all, "at exit ")


def at_exit_first() -> None:
    atexit.register(make_all, "at exit ")


class _Dropped:
    def __del__(self) -> None:
        for name, call in CALLS.items():
            if name != "put":  # the module of time zones has ended then, and raises SystemError
                make(name, call, "dropped ")


def dropped() -> None:
    opened()
    gc.disable()
    cycle: list[object] = [_Dropped()]
    cycle.append(cycle)


def daemon_thread() -> None:
    opened()

    def busy() -> None:
        while True:
            for call in CALLS.values():
                try:
                    call()
                except BrokerJobsError:
                    pass

    for _ in range(3):
        threading.Thread(target=busy, daemon=True).start()
    time.sleep(0.2)
    say("the end")


class _Handler(logging.Handler):
    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        calls = list(CALLS.items())
        name, call = calls[self.count % len(calls)]
        self.count += 1
        make(name, call, "log ")


def logging_handler() -> None:
    opened()
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    logging.getLogger("pika").setLevel(logging.DEBUG)
    handler = _Handler(logging.DEBUG)
    root.addHandler(handler)
    say("ready")
    sys.stdin.readline()  # the test has closed the connections or stopped the broker
    in_threads("meanwhile ")
    say("ready")
    sys.stdin.readline()  # it is back
    root.removeHandler(handler)
    _still_alive("an outage with a logging handler")
    in_threads("after ")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    globals()[place]()
    if place not in {"at_exit", "at_exit_first", "dropped", "daemon_thread"}:
        os._exit(0)
