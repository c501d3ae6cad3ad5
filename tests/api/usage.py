# pyright: strict
"""What a user writes, for type checkers only. A line that ends in a hash and an E must be an error, every other clean."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, assert_type

from pydantic import BaseModel

from starlette.applications import Starlette
from starlette.requests import Request

from broker_jobs import Role, Visitor
from broker_jobs import (AsyncJob, Backoff, Batch, BatchCounts, BrokerJobs, Call, Concurrency, Depends, Failure, Job, JobError, JobInfo, JobMessage,
                         JobOptions, Jobs,
                         Ordered, RateLimit, Receipt, State, SyncJob, Unique, current_job, result_of, results_of)

P = ParamSpec("P")
R = TypeVar("R")
jobs = BrokerJobs("memory://", modules=["shop.mail"], service="shop")
hour = timedelta(hours=1)

# ---- 1. defining ----------------------------------------------------------------------------------------------
class Order(BaseModel):
    id: int
    total: float = 0
@dataclass
class Row:
    name: str
class Mailer:
    def send(self, to: int) -> None: ...
def get_mailer() -> Mailer: return Mailer()
def get_mailer_scoped() -> Iterator[Mailer]: yield Mailer()

@jobs.job
def welcome(user_id: int) -> str: return ""
@jobs.job()
def ping() -> int: return 1
@jobs.job(queue="mail", retries=10, backoff=[1, 5, 30], timeout=timedelta(seconds=30), limit=Concurrency("smtp", 5))
def letter(user_id: int, *, loud: bool = False) -> str: return ""
@jobs.job
async def fetch(url: str) -> bytes: return b""
@jobs.job(isolation="process", memory_limit=2**30)
def compress(path: str) -> int: return len(path)
@jobs.job(isolation="thread", timeout=60, tags=["page"], unique=Unique("page:{url}", scope=hour, conflict="replace"))
async def crawl(url: str) -> bytes: return b""
@jobs.job
def resize(image: bytes, width: int, /, *, crop: bool = False) -> str: return ""
@jobs.job
def report(days: int = 7) -> None: ...
@jobs.job
def ship(order: Order, rows: list[Row]) -> Order: return order
@jobs.job
def total(counts: list[int]) -> int: return sum(counts)
@jobs.job
def notify(user_id: int, mailer: Mailer = Depends(get_mailer), scoped: Mailer = Depends(get_mailer_scoped)) -> None: ...
async def get_token() -> str: return ""
async def get_session(token: Annotated[str, Depends(get_token)]) -> AsyncGenerator[Mailer]: yield Mailer()
@jobs.job
async def notify_async(
    user_id: int, token: str = Depends(get_token), mailer: Annotated[Mailer | None, Depends(get_session)] = None
) -> None: ...
notify_async.enqueue(42)
notify_async.enqueue("x")  # E
@jobs.job
def odd(when: int, job: int, self: int, *names: str, **more: float) -> None: ...
MAIL: JobOptions = {"queue": "mail", "retries": 3, "backoff": [1, 5, hour]}
@jobs.job(**MAIL)
def mailed(user_id: int) -> None: ...
class Tools:
    @staticmethod
    @jobs.job
    def clean(path: str) -> int: return 0
    @jobs.job
    def send(self, user_id: int) -> str: return ""
BrokerJobs(service=1)  # E
@jobs.job(backoff=Backoff(first=2, factor=3, cap=hour, jitter=0.5), retry_on=OSError, never_retry=FileNotFoundError)
def patient() -> None: ...
@jobs.job(never_retry=(KeyError, ValueError), keep=hour, keep_result=60)
def picky() -> None: ...
@jobs.job(never_retry="ValueError")  # E
def bad_kind() -> None: ...
@jobs.job(backoff=Backoff(first="1"))  # E
def bad_backoff() -> None: ...
@jobs.job(keep="1 day")  # E
def bad_keep() -> None: ...
@jobs.job(quee="mail")  # E
def bad_option() -> None: ...
@jobs.job(priority="highest")  # E
def bad_priority() -> None: ...
@jobs.job(priority="low")
def quiet() -> None: ...
@jobs.job(retries="3")  # E
def bad_value() -> None: ...
@jobs.job("mail")  # E
def bad_name() -> None: ...

# ---- 2. an ordinary function ----------------------------------------------------------------------------------
assert_type(welcome(42), str)
welcome("x")  # E
async def direct() -> None:
    assert_type(await fetch("u"), bytes)
    fetch("u")  # E

# ---- 3. fire and forget ---------------------------------------------------------------------------------------
receipt = welcome.enqueue(42)
assert_type(receipt, Receipt[str])
assert_type(receipt.result(timeout=5), str)
assert_type(receipt.state(), State)
assert_type(receipt.info(), JobInfo)
assert_type(receipt.info().error, JobError | None)
assert_type((receipt.info().attempts, receipt.info().enqueued_at, receipt.info().ended_at), tuple[int, datetime, datetime | None])
receipt.info().state = State.FAILED  # E
assert_type(fetch.enqueue("u"), Receipt[bytes])
assert_type(crawl.enqueue("u").result(), bytes)
assert_type(Tools.clean.enqueue("old"), Receipt[int])
letter.enqueue(42, loud=True)
welcome.enqueue(user_id=42)
notify.enqueue(42)
resize.enqueue(b"", 3, crop=True)
odd.enqueue(when=1, job=2, self=3)
odd.enqueue(1, 2, 3, "a", x=1.0)
ship.enqueue(Order(id=1), [Row("a")])
welcome.enqueue("x")  # E
welcome.enqueue()  # E
welcome.enqueue(1, 2)  # E
welcome.enqueue(user=1)  # E
welcome.enqueue(None)  # E
letter.enqueue(42, True)  # E
letter.enqueue(42, lood=True)  # E
resize.enqueue(image=b"", width=3)  # E
ship.enqueue({"id": 1}, [])  # E
ship.enqueue(Order(id=1), [{"name": "a"}])  # E
Tools().send.enqueue(42)  # E
welcome.delay(42)  # E
async def in_async() -> None:
    assert_type(await welcome.enqueue_async(42), Receipt[str])
    assert_type(await fetch.schedule_async(hour, "u"), Receipt[bytes])
    assert_type(await receipt.result_async(5), str)
    assert_type(await receipt.info_async(), JobInfo)
    await asyncio.gather(*(welcome.enqueue_async(i) for i in range(3)))
    welcome.enqueue_async(42)  # E
    await welcome.enqueue(42)  # E
    await welcome.enqueue_async("x")  # E

# ---- 4. delayed -----------------------------------------------------------------------------------------------
assert_type(welcome.schedule(timedelta(days=30), 42), Receipt[str])
welcome.schedule(datetime(2027, 1, 1, tzinfo=timezone.utc), 42)
odd.schedule(hour, when=1, job=2, self=3)
welcome.schedule(30, 42)  # E
welcome.schedule(hour)  # E
welcome.schedule(hour, "x")  # E
welcome.schedule(42, hour)  # E
welcome.schedule("2027-01-01", 42)  # E
receipt.reschedule(hour)

# ---- 5. options of one call -----------------------------------------------------------------------------------
assert_type(welcome.using(queue="slow", tags=["user:42"], expires=hour).enqueue(42), Receipt[str])
welcome.using(trace={"traceparent": "00-…"}).enqueue(42)
welcome.using(trace="00-…").enqueue(42)  # E
welcome.using(keep=hour, keep_result=None, backoff=Backoff(cap=hour)).enqueue(42)
welcome.using(never_retry=ValueError)  # E
assert_type(welcome.using(queue="slow", unique="user:42", limit=Concurrency("smtp", 5)).enqueue(42), Receipt[str])
welcome.using(limit=[RateLimit("smtp", 100, per=60), Concurrency("host", 2)], id="welcome-42").schedule(hour, 42)
welcome.using(limit=(Ordered("account:{user_id}"), RateLimit("api", 5, per=hour, window="fixed"))).enqueue(42)
welcome.using(unique=Unique("user:{user_id}", scope="running")).enqueue(42)
welcome.using(queue="slow").using(retries=0).enqueue(42)
welcome.using(quee="slow")  # E
welcome.using(queue=1)  # E
welcome.using(priority="high").enqueue(42)
welcome.using(priority="urgent")  # E
jobs.remote("billing.charge", queue="billing", priority="low").enqueue(42)
jobs.remote("billing.charge", priority=1)  # E
welcome.using(isolation="process")  # E
welcome.using(memory_limit=2**30)  # E
welcome.using(queue="slow").enqueue("x")  # E
welcome.using(queue="slow")(42)  # E
welcome.using("slow")  # E
welcome.using(unique=42)  # E
welcome.using(limit="smtp")  # E
welcome.using(limit=[Unique("smtp")])  # E
Concurrency("smtp")  # E
RateLimit("smtp", 100)  # E
RateLimit("smtp", 100, per=60, window="rolling")  # E
Ordered("smtp", 1)  # E
Unique("user", scope="always")  # E
Unique("user", conflict="drop")  # E
jobs.limits.set("smtp", 3)
jobs.limits.clear("smtp")
jobs.limits.set("smtp", "3")  # E
jobs.limits.set("smtp")  # E

# ---- 6. continuations and results -----------------------------------------------------------------------------
image = fetch.enqueue("u")
assert_type(letter.after(receipt, on="failed").enqueue(42, loud=True), Receipt[str])
letter.after(receipt, image, on="finished").schedule(hour, 42)
letter.after(receipt).using(queue="slow").after(image).enqueue(42)
assert_type(resize.after(image).enqueue(result_of(image), 100), Receipt[str])
resize.enqueue(result_of(image), 100)
assert_type(resize.bind(result_of(image), 100), Call[str])
counts = [ping.enqueue() for _ in range(3)]
assert_type(total.after(*counts).enqueue(results_of(counts)), Receipt[int])
assert_type(total.enqueue(results_of(counts)), Receipt[int])
letter.after(receipt, on="success")  # E
letter.after()  # E
letter.after(hour)  # E
letter.after("0190-…")  # E
letter.after(receipt).enqueue("x")  # E
letter.after(receipt)(42)  # E
welcome.enqueue(result_of(image))  # E
total.enqueue(results_of([image]))  # E
total.enqueue(result_of(counts))  # E

# ---- 7. batches -----------------------------------------------------------------------------------------------
with jobs.batch("import") as batch:
    assert_type(batch, Batch)
    assert_type(batch.enqueue(welcome, 42), Receipt[str])
    assert_type(batch.enqueue(crawl.using(queue="slow"), "u"), Receipt[bytes])
    assert_type(batch.enqueue(resize.after(image), result_of(image), 100), Receipt[str])
    batch.schedule(letter, hour, 42, loud=True)
    batch.enqueue(odd, when=1, job=2, self=3)
    assert_type(batch.enqueue_many(ping.bind() for _ in range(3)), list[Receipt[int]])
    batch.enqueue(welcome, "x")  # E
    batch.enqueue(welcome)  # E
    batch.enqueue(welcome(42))  # E
    batch.schedule(letter, 42)  # E
    with batch.batch("part") as part:
        part.enqueue(ping)
report.after(batch).enqueue()
report.after(batch, receipt, on="finished").enqueue(days=1)
jobs.batch("later", after=batch)
jobs.batch("later", after=[batch, receipt, image], on="finished")
jobs.batch(after=hour)  # E
jobs.batch(on="success")  # E
assert_type(batch.state(), State)
assert_type(batch.wait(hour), State)
assert_type(batch.delete(), bool)
assert_type(batch.counts(), BatchCounts)
assert_type(batch.counts().failed, int)
batch.counts().failed = 0  # E
assert_type(batch.requeue_failures(), int)
assert_type(batch.requeue_failures("no route to host"), int)
batch.requeue_failures(42)  # E
assert_type(jobs.batch_receipt("0190"), Batch)
report.after(jobs.batch_receipt("0190")).enqueue()
result_of(batch)  # E
for failure in batch.failures():
    assert_type(failure, Failure)
    assert_type(failure.receipt, Receipt[Any])
    print(failure.job, failure.args, failure.kwargs, failure.error_type, failure.message, failure.traceback)
    failure.requeue()
    failure.job = "x"  # E
async def a_batch() -> None:
    async with jobs.batch() as b:
        b.enqueue(welcome, 42)
    assert_type(await b.wait_async(5), State)
    assert_type(await b.state_async(), State)
    assert_type(await b.counts_async(), BatchCounts)
    assert_type(await b.delete_async(), bool)
    assert_type(await b.requeue_failures_async("timeout"), int)
    async for each_failure in b.failures_async():
        await each_failure.requeue_async()
        each_failure.requeue_async()  # E
    with jobs.batch() as b2:
        await b2.enqueue(welcome, 42)  # E

# ---- 8. calls as values, many ---------------------------------------------------------------------------------
assert_type(welcome.bind(42), Call[str])
assert_type(jobs.enqueue_many(welcome.bind(i) for i in range(3)), list[Receipt[str]])
jobs.enqueue_many([welcome.bind(1), fetch.bind("u"), report.using(queue="slow").bind()])
jobs.enqueue_many([welcome.bind("x")])  # E
jobs.enqueue_many([welcome.enqueue(1)])  # E
jobs.enqueue_many(welcome, [1, 2])  # E
later = partial(welcome.enqueue, 42)
assert_type(later(), Receipt[str])
partial(welcome.enqueue, "x")  # E
list(map(welcome.enqueue, [1, 2]))
list(map(welcome.enqueue, ["x"]))  # E

# ---- 9. recurring ---------------------------------------------------------------------------------------------
jobs.recurring("weekly-report", "0 9 * * MON", report, tz="Europe/Istanbul")
jobs.recurring("heartbeat", "* * * * * *", ping.using(queue="fast"), misfire="skip", overlap="skip")
jobs.recurring("digest", "0 9 * * *", letter.bind(42, loud=True))
jobs.recurring.put("tenant-7", "0 9 * * *", welcome.bind(7))
assert_type(jobs.recurring.trigger("weekly-report"), Receipt[Any])
jobs.recurring.pause("weekly-report")
jobs.queues.pause("mail")
jobs.recurring("every", hour, report)
jobs.recurring.put("every", timedelta(minutes=5), welcome.bind(7), misfire="skip")
jobs.recurring("every", 300, report)  # E
jobs.recurring("bad", "* * * * *", welcome)  # E
jobs.recurring("bad", "* * * * *", welcome.bind("x"))  # E
jobs.recurring("bad", "* * * * *", welcome.enqueue(1))  # E
jobs.recurring("bad", "* * * * *", lambda: welcome(1))  # E
jobs.recurring("bad", "* * * * *", welcome(1))  # E
jobs.recurring("bad", "* * * * *", report, misfire="never")  # E
jobs.recurring("bad", report)  # E

# ---- 9b. events -----------------------------------------------------------------------------------------------
@jobs.subscribe("user.registered")
def greet(user_id: int, *, name: str = "") -> str: return ""
@jobs.subscribe("user.registered", queue="mail", retries=3, limit=Concurrency("smtp", 5))
async def fetch_picture(user_id: int) -> bytes: return b""
@jobs.subscribe("user.registered")
@jobs.subscribe("user.changed")
def index(user_id: int) -> None: ...
assert_type(greet(42), str)
assert_type(greet.enqueue(42, name="x"), Receipt[str])
assert_type(fetch_picture.enqueue(42), Receipt[bytes])
a_sync: SyncJob[[int], None] = index
an_async: AsyncJob[[int], bytes] = fetch_picture
index.enqueue("x")  # E
assert_type(jobs.publish("user.registered", 42, name="x"), str)
async def publishing() -> None:
    assert_type(await jobs.publish_async("user.registered", 42), str)
jobs.publish(42)  # E
jobs.publish()  # E
@jobs.subscribe  # E
def not_subscribed(user_id: int) -> None: ...
@jobs.subscribe("user.registered", quee="mail")  # E
def not_subscribed_either(user_id: int) -> None: ...

jobs.recurring("every", hour, report)
jobs.recurring.put("every", timedelta(minutes=5), welcome.bind(7), misfire="skip")
jobs.recurring("every", 300, report)  # E

# ---- 10. jobs of other services, receipts by id ---------------------------------------------------------------
class Charged(BaseModel):
    ok: bool
@jobs.remote("billing.charge", queue="billing")
def charge(order_id: int, *, note: str = "") -> Charged: raise NotImplementedError
@jobs.remote("billing.refund", queue="billing")
async def refund(order_id: int) -> None: ...
assert_type(charge.enqueue(7).result().ok, bool)
assert_type(refund.enqueue(7), Receipt[None])
charge.using(retries=3).after(receipt).schedule(hour, 7, note="x")
assert_type(jobs.remote("billing.charge").enqueue(order_id=7), Receipt[Any])
charge.enqueue("7")  # E
charge(7)  # E
assert_type(welcome.receipt("0190").result(), str)
assert_type(jobs.receipt("0190").result(), Any)
jobs.receipt("0190").delete()
welcome.using(publish_timeout=2, fail_fast=True).enqueue(42)
welcome.using(publish_timeout=timedelta(seconds=2)).enqueue(42)
welcome.using(publish_timeout="2").enqueue(42)  # E
assert_type(jobs.using(fail_fast=True).enqueue_many([welcome.bind(1)]), list[Receipt[str]])
assert_type(jobs.using(publish_timeout=2).publish("user.registered", 42), str)
jobs.using(queue="mail")  # E


async def controls() -> None:
    async with jobs as started:
        assert_type(started, BrokerJobs)
    assert_type(await jobs.receipt("0190").delete_async(), bool)
    await jobs.receipt("0190").requeue_async()
    await jobs.receipt("0190").reschedule_async(hour)
    await jobs.receipt("0190").reschedule_async(60)  # E
    await jobs.recurring.put_async("daily", "0 9 * * *", welcome.bind(7), tz="Europe/Istanbul")
    await jobs.recurring.put_async("daily", "0 9 * * *", welcome)  # E
    await jobs.recurring.trigger_async("daily")
    await jobs.queues.pause_async("mail")
    await jobs.limits.set_async("smtp", 2)
    assert_type(await jobs.using(fail_fast=True).publish_async("user.registered", 42), str)


# ---- 11. inside a job -----------------------------------------------------------------------------------------
@jobs.job
def long() -> None:
    job = current_job()
    for i in range(10):
        job.progress(i, 10)
        job.log("step", number=i)
        if job.cancelled():
            return
    assert_type(job.cancelled(), bool)
    assert_type((job.name, job.queue, job.tags, job.retries, job.retries_left), tuple[str, str, tuple[str, ...], int, int])
    assert_type(job.priority, Literal["high", "normal", "low"])
    assert_type(job.arguments["user_id"], Any)
    assert_type(job.trace.get("traceparent"), str | None)
    job.arguments["user_id"] = 1  # E
    job.name = "x"  # E
    if job.batch is not None:
        with job.batch as mine:
            mine.enqueue(ping)
    if job.cancelled:  # E
        return

# ---- 12. handing jobs around ----------------------------------------------------------------------------------
def remind(send: Callable[[int], Receipt[object]]) -> str: return send(42).id
remind(welcome.enqueue)
remind(letter.using(queue="slow").enqueue)
remind(fetch.enqueue)  # E
def cancel_all(receipts: Iterable[Receipt[object]]) -> None: ...
cancel_all([receipt, image, *counts])
registry: dict[str, Job[..., Any]] = {"welcome": welcome, "fetch": fetch, "charge": charge}
def every(job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R: return job.enqueue(*args, **kwargs).result()
assert_type(every(letter, 42, loud=True), str)
every(letter, "x")  # E

# ---- 13. in programs ------------------------------------------------------------------------------------------
@jobs.around
def in_app_context() -> Generator[None]: yield
@jobs.around
async def in_session() -> AsyncGenerator[None]: yield
@jobs.around  # E
def not_around() -> None: ...

# ---- 13b. hooks and groups ------------------------------------------------------------------------------------
@jobs.on_enqueue
def enqueued(job: JobMessage) -> None: assert_type(job.name, str)
@jobs.on_start
async def started(job: JobMessage) -> None: assert_type(job.attempt, int)
@jobs.on_success
def succeeded(job: JobMessage, result: object) -> None: ...
@jobs.on_failed
async def failed(job: JobMessage, error: BaseException) -> None: ...
@jobs.on_worker_start
async def worker_started() -> None: ...
@jobs.on_worker_stop
def worker_stopped() -> None: ...
jobs.on_enqueue(started)  # E
jobs.on_start(succeeded)  # E
jobs.on_success(enqueued)  # E
jobs.on_failed(worker_stopped)  # E
jobs.on_worker_start(enqueued)  # E
mail = Jobs(queue="mail", retries=3, names="module")
@mail.job
def in_group(user_id: int) -> str: return ""
@mail.job(queue="bulk")
async def in_group_async(user_id: int) -> str: return ""
@mail.subscribe("user.registered")
def in_group_event(user_id: int) -> None: ...
mail.recurring("group", "0 9 * * *", in_group.bind(1))
mail.on_start(started)
mail.include(Jobs())
jobs.include(mail)
assert_type(in_group.enqueue(1), Receipt[str])
assert_type(in_group_async.enqueue(1), Receipt[str])
in_group.enqueue("x")  # E
jobs.include("mail")  # E
Jobs(quee="mail")  # E
Jobs(names="path")  # E
BrokerJobs(names="module")
BrokerJobs(names="path")  # E
mail.start()  # E

def fastapi_app() -> None:
    from fastapi import FastAPI
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        with jobs:
            yield
    app = FastAPI(lifespan=lifespan)
    FastAPI(lifespan=jobs.lifespan)
    @app.post("/signup")
    async def signup(user_id: int) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"job": (await welcome.enqueue_async(user_id)).id}

def flask_app() -> None:
    from flask import Flask
    app = Flask("shop")
    @jobs.around
    def in_flask_context() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
        with app.app_context():
            yield
    jobs.start(roles=["worker"], queues=["mail"], concurrency=4)
    jobs.start(queues={"mail": 3, "bulk": 1}, queue_limits={"bulk": 2})
    jobs.start(roles=["workers"])  # E

def django_view(user_id: int) -> None:
    from django.db import transaction
    transaction.on_commit(partial(welcome.enqueue, user_id))
    transaction.on_commit(lambda: welcome.enqueue(user_id))

# ---- 14. tests ------------------------------------------------------------------------------------------------
def test_the_function_itself() -> None:
    assert welcome(42) == ""
    notify(42, mailer=Mailer())


# --- the dashboard ---
def may(request: Request) -> Visitor | None:
    return Visitor(Role.OPERATOR, "Ann") if request.cookies else None


async def role_of(request: Request) -> Role | None:
    return Role.VIEWER if request.cookies else None


Starlette().mount("/jobs", jobs.dashboard(local=True))
jobs.dashboard(authorize=may, read_only=True, title="shop")
jobs.dashboard(authorize=role_of)
jobs.dashboard(authorise=may)  # E
jobs.dashboard(read_only="yes")  # E
jobs.dashboard(local="yes")  # E
jobs.dashboard("shop")  # E
Visitor("admin", "Ann")  # E
