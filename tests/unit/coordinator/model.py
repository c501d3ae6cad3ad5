"""Walks one job, two workers, the log and a coordinator through every interleaving of chosen faults.

The decisions are the real ones (`coordinator.transition.decide`); broker, workers and faults are modelled. It looks for
what must never be: a job stuck, an epoch run twice, two runs at once, a run after the success is stored, a deleted job
that starts, a final state left without a person's command, two runnable messages.

Assumed, as in production: one worker stays alive; a grace outlives reconnect and flush; a fence reaches a worker before
it starts the message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from broker_jobs.coordinator.records import (
    FromWorker,
    JobRecord,
    LeaseOver,
    ProvenLost,
    ReadyCopy,
    Released,
    ReleaseUnknown,
    Repeat,
    TimerDue,
)
from broker_jobs.coordinator.state_machine import Context, decide
from broker_jobs.messages import codec
from broker_jobs.messages.commands import DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import Envelope, Policy
from broker_jobs.messages.events import ErrorInfo, Failed, Interrupted, Returned, ReturnReason, Started, Succeeded
from broker_jobs.store.row import Publication, Row

ENVELOPE = Envelope(
    id="j", job="work", created_at=datetime(2026, 1, 1, tzinfo=UTC), policy=Policy(retries=1, backoff=(0.0,))
)
BODY = codec.encode(ENVELOPE).decode()
NEVER = -1e9
ALWAYS = 1e9

Log = tuple[str, int, int, bool]
"""A record in the log: what, epoch, worker, redelivered."""


class HeldDelivery(NamedTuple):
    """A delivery at a worker. Phases: held, runs, hands over, done (reported, to be acknowledged)."""

    epoch: int
    redelivered: bool
    phase: str


RUNS = ("runs", "hands over", "leaving")
"""The phases in which the function may be running."""


class Worker(NamedTuple):
    """A modelled worker; `cut`: the broker took its delivery back while it goes on running."""

    alive: bool = True
    held: HeldDelivery | None = None
    unsent: tuple[Log, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class World:
    """Everything at one moment; hashable."""

    work: tuple[tuple[int, bool], ...] = ((1, False),)
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    log: tuple[Log, ...] = ()
    row: tuple[Any, ...] | None = None
    publishing: tuple[int, ...] = ()
    copy_pending: bool = True
    faults: tuple[tuple[str, int], ...] = ()
    runs: tuple[tuple[int, int], ...] = ()
    fence: int = 0

    def spend(self, fault: str) -> World | None:
        """This world with one fault of a kind less, None when there is none left."""
        left = dict(self.faults)
        if left.get(fault, 0) <= 0:
            return None
        left[fault] -= 1
        return replace(self, faults=tuple(sorted(left.items())))

    def worker(self, number: int, worker: Worker) -> World:
        """This world with another worker in a place."""
        first, second = self.workers
        return replace(self, workers=(worker, second) if number == 0 else (first, worker))


_KEPT = (
    "state", "reason_code", "publication", "epoch", "attempt", "crashes", "returns", "unknowns", "interruptions",
    "fence", "owner", "owned",
)  # fmt: skip


def pack(row: Row | None) -> tuple[Any, ...] | None:
    """The columns of a row that decisions look at, hashable; times are reduced to "a grace is set"."""
    if row is None:
        return None
    return (*(getattr(row, name) for name in _KEPT), row.grace_until is not None, bool(row.envelope))


def unpack(packed: tuple[Any, ...] | None) -> Row | None:
    """The row that a packed one stands for; whether its grace is over is decided by the log time it is looked at."""
    if packed is None:
        return None
    columns = dict(zip(_KEPT, packed, strict=False))
    return Row(
        id="j",
        due_at=0.0,
        retries=1,
        grace_until=0.0 if packed[-2] else None,
        envelope=BODY if packed[-1] else "",
        **columns,
    )


def record_of(entry: Log) -> JobRecord:
    """The real record behind an entry of the modelled log."""
    what, epoch, worker, redelivered = entry
    name = f"w{worker}"
    match what:
        case "copy":
            return ReadyCopy(ENVELOPE, BODY)
        case "repeat":
            return Repeat(ENVELOPE, BODY)
        case "started" | "handed over":
            return FromWorker(name, Started(id="j", epoch=epoch, at=0.0, owned=what == "handed over"))
        case "ok":
            return FromWorker(name, Succeeded(id="j", epoch=epoch, started_at=0.0, ended_at=0.0))
        case "fail":
            error = ErrorInfo(type="E", message="")
            return FromWorker(
                name, Failed(id="j", epoch=epoch, started_at=0.0, ended_at=0.0, error=error, envelope=BODY)
            )
        case "back":
            reason: ReturnReason = "redelivered" if redelivered else "fenced"
            back = Returned(id="j", epoch=epoch, at=0.0, reason=reason, redelivered=redelivered, envelope=BODY)
            return FromWorker(name, back)
        case "interrupted":
            return FromWorker(name, Interrupted(id="j", epoch=epoch, started_at=0.0, ended_at=0.0, envelope=BODY))
        case "delete":
            return DeleteJob(id="c1", at=0.0, job_id="j")
        case "requeue":
            return RequeueJob(id="c2", at=0.0, job_id="j")
        case "reschedule":
            return RescheduleJob(id="c3", at=0.0, job_id="j", due_at=0.0)
        case _:
            raise AssertionError(what)


def decided(world: World, record: JobRecord, *, grace_over: bool = False) -> World:
    """The world after the coordinator decided a record and committed."""
    before = unpack(world.row)
    after, _ = decide(before, record, Context(1.0, ALWAYS if grace_over else NEVER, "c", lambda: 0.0))
    publishing, fence = world.publishing, world.fence
    if after is not None:
        if after.publication is Publication.PUBLISHING and (before is None or after.epoch != before.epoch):
            publishing = (*publishing, after.epoch)
        fence = max(fence, after.fence)
    return replace(world, row=pack(after), publishing=publishing, fence=fence)


def steps(world: World) -> Iterator[tuple[str, World]]:
    """Everything that can happen next."""
    yield from _coordinator(world)
    yield from _people(world)
    for number in (0, 1):
        yield from _worker(world, number)


def _coordinator(world: World) -> Iterator[tuple[str, World]]:
    row = unpack(world.row)
    if world.copy_pending:
        yield "the copy reaches the log", replace(world, copy_pending=False, log=(*world.log, ("copy", 1, -1, False)))
    if world.log:
        entry, rest = world.log[0], world.log[1:]
        yield f"apply {entry}", decided(replace(world, log=rest), record_of(entry))
        spent = world.spend("log ack lost")
        if spent is not None and entry[0] not in ("delete", "requeue", "reschedule"):
            yield f"apply {entry}, its ack is lost", decided(spent, record_of(entry))
            yield f"apply {entry}, it comes again later", decided(replace(spent, log=(*rest, entry)), record_of(entry))
    if world.publishing:
        epoch, rest_out = world.publishing[0], world.publishing[1:]
        out = replace(world, publishing=rest_out, work=(*world.work, (epoch, False)))
        yield f"release {epoch} confirmed", decided(out, Released("j", epoch))
        spent = world.spend("coordinator dies")
        if spent is not None:
            lost = replace(spent, publishing=rest_out)
            yield f"dies before publishing {epoch}", decided(lost, ReleaseUnknown("j", epoch))
            there = replace(lost, work=(*lost.work, (epoch, False)))
            yield f"dies after publishing {epoch}", decided(there, ReleaseUnknown("j", epoch))
    if row is not None and row.state == "scheduled" and row.publication is Publication.NONE:
        if (row.grace_until is None or not _busy(world, row.epoch)) and not _leaving(world, row.epoch):
            yield "due", decided(world, TimerDue("j"), grace_over=True)
    if (
        row is not None
        and row.publication is not Publication.NONE
        and row.state != "processing"
        and _nothing_out(world)
    ):
        yield "sweep", decided(world, ProvenLost("j", row.epoch))


def _busy(world: World, epoch: int) -> bool:
    """Somebody still has word of this epoch to give: a grace is long enough to wait for it."""
    for worker in world.workers:
        if not worker.alive:
            continue
        if worker.held is not None and worker.held.epoch == epoch and worker.held.phase in RUNS:
            return True
        if any(entry[1] == epoch for entry in worker.unsent):
            return True
    return any(entry[1] == epoch and entry[2] >= 0 for entry in world.log)


def _leaving(world: World, epoch: int) -> bool:
    """A process is about to end that runs what RabbitMQ does not back: the job waits long enough for its end."""
    return any(w.alive and w.cut and w.held and w.held[0::2] == (epoch, "leaving") for w in world.workers)


def _nothing_out(world: World) -> bool:
    quiet = not (world.work or world.log or world.publishing or world.copy_pending)
    return quiet and not any(w.alive and (w.held or w.unsent) for w in world.workers)


def _people(world: World) -> Iterator[tuple[str, World]]:
    for what in ("delete", "requeue", "reschedule", "repeat"):
        spent = world.spend(what)
        if spent is not None:
            yield what, replace(spent, log=(*spent.log, (what, 1, -1, False)))
    spent = world.spend("purge")
    if spent is not None and world.work:
        yield "purge", replace(spent, work=())


def _worker(world: World, number: int) -> Iterator[tuple[str, World]]:
    me = world.workers[number]
    row = unpack(world.row)
    told = any(entry[2] == number for entry in world.log)
    mine = row is not None and row.state == "processing" and row.owner == f"w{number}"
    if not me.alive:
        if mine and not told:
            yield f"lease of {number} over", decided(world, LeaseOver("j", f"w{number}", "vanished"))
        return
    has = me.held is not None and row is not None and me.held.epoch == row.epoch
    runs = has and me.held is not None and me.held.phase in RUNS
    if mine and not told and not me.unsent and not runs:
        yield f"{number} does not list it", decided(world, LeaseOver("j", f"w{number}", "not listed"))
    if me.unsent:
        entry = me.unsent[0]
        yield (
            f"{number} tells {entry}",
            replace(world, log=(*world.log, entry)).worker(number, me._replace(unsent=me.unsent[1:])),
        )
    if me.held is None and not me.unsent and world.work:
        epoch, redelivered = world.work[0]
        taken = me._replace(held=HeldDelivery(epoch, redelivered, "held"), cut=False)
        yield f"{number} gets {epoch}", replace(world, work=world.work[1:]).worker(number, taken)
    if me.held is not None:
        yield from _delivery(world, number, me, me.held)
    spent = world.spend("worker dies")
    if spent is not None and (me.held or me.unsent) and _stays(world.workers[1 - number]):
        back = ((me.held.epoch, True), *spent.work) if me.held is not None and not me.cut else spent.work
        yield f"{number} dies", replace(spent, work=back).worker(number, Worker(alive=False))


def _stays(worker: Worker) -> bool:
    """Somebody is left to go on with."""
    return worker.alive and (worker.held is None or worker.held.phase != "leaving")


def _delivery(world: World, number: int, me: Worker, held: HeldDelivery) -> Iterator[tuple[str, World]]:
    done = None if me.cut else held._replace(phase="done")
    if held.phase == "held":
        if held.redelivered or held.epoch <= world.fence:
            back = me._replace(held=done, unsent=(("back", held.epoch, number, held.redelivered),))
            yield f"{number} returns {held.epoch}", world.worker(number, back)
        else:
            runs = replace(world, runs=(*world.runs, (held.epoch, number)))
            yield (
                f"{number} runs {held.epoch}",
                runs.worker(number, me._replace(held=held._replace(phase="runs"))),
            )
    if held.phase == "runs" and not me.unsent:
        for what in ("ok", "fail"):
            ended = me._replace(held=done, unsent=((what, held.epoch, number, False),))
            yield f"{number} ends {what}", world.worker(number, ended)
        spent = world.spend("started is told")
        if spent is not None:
            said = me._replace(unsent=(("started", held.epoch, number, False),))
            yield f"{number} says started", spent.worker(number, said)
        spent = world.spend("handover")
        if spent is not None and not me.cut:
            handing = me._replace(
                held=held._replace(phase="hands over"), unsent=(("handed over", held.epoch, number, False),)
            )
            yield f"{number} hands over", spent.worker(number, handing)
        spent = world.spend("interrupt")
        if spent is not None and _stays(world.workers[1 - number]):
            leaving = me._replace(
                held=held._replace(phase="leaving"), unsent=(("interrupted", held.epoch, number, False),)
            )
            yield f"{number} has to leave", spent.worker(number, leaving)
    if held.phase == "leaving" and not me.unsent:
        gone = world.work if me.cut else ((held.epoch, True), *world.work)
        yield f"{number} has left", replace(world, work=gone).worker(number, Worker(alive=False))
        late = me._replace(held=done, unsent=(("ok", held.epoch, number, False),))
        yield f"{number} ends ok after all", world.worker(number, late)
    if held.phase == "hands over" and not me.unsent:
        owned = me._replace(held=held._replace(phase="runs"), cut=True)
        yield f"{number} acks what it handed over", world.worker(number, owned)
    if held.phase == "done" and not me.unsent:
        yield f"{number} acks", world.worker(number, me._replace(held=None))
    spent = world.spend("blip")
    if spent is not None and not me.cut:
        phase = "leaving" if held.phase == "leaving" else "runs"
        still = held._replace(phase=phase) if held.phase in RUNS else None
        cut = me._replace(held=still, cut=still is not None)
        yield f"{number} is cut off", replace(spent, work=((held.epoch, True), *spent.work)).worker(number, cut)


@dataclass
class Findings:
    """What a walk found: how many worlds, how many ends, and for each broken rule the way to it."""

    worlds: int = 0
    ends: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict)


def walk(limit: int = 400_000, **faults: int) -> Findings:
    """Go through every world that these faults can lead to. Raises when there are more than `limit`."""
    named = {name.replace("_", " "): count for name, count in faults.items()}
    start = World(faults=tuple(sorted(named.items())))
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    leads_to: dict[World, list[World]] = {}
    ends: list[World] = []
    todo = deque([start])
    found = Findings()
    while todo:
        world = todo.popleft()
        following = [(label, after) for label, after in steps(world) if after != world]
        if not following:
            ends.append(world)
        for rule in _broken(world, following):
            found.broken.setdefault(rule, _way(came_from, world))
        for label, after in following:
            leads_to.setdefault(after, []).append(world)
            if after not in came_from:
                came_from[after] = (world, label)
                todo.append(after)
        if len(came_from) > limit:
            raise AssertionError(f"more than {limit} worlds for {named}")
    found.worlds, found.ends = len(came_from), len(ends)
    circling = set(came_from) - _leading_to(ends, leads_to)
    if circling:
        found.broken.setdefault("goes round in circles", _way(came_from, next(iter(circling))))
    return found


def _leading_to(ends: list[World], leads_to: dict[World, list[World]]) -> set[World]:
    """All worlds from which an end can be reached."""
    reached, todo = set(ends), list(ends)
    while todo:
        for before in leads_to.get(todo.pop(), ()):
            if before not in reached:
                reached.add(before)
                todo.append(before)
    return reached


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    way: list[str] = []
    while (step := came_from[world]) is not None:
        world = step[0]
        way.append(step[1])
    return way[::-1]


def _broken(world: World, following: list[tuple[str, World]]) -> Iterator[str]:
    running = [w for w in world.workers if w.held is not None and w.held.phase in RUNS]
    if len(running) > 1:
        yield "two runs at once"
    epochs = [epoch for epoch, _ in world.runs]
    if len(epochs) != len(set(epochs)):
        yield "an epoch is run twice"
    if len([1 for epoch, redelivered in world.work if not redelivered and epoch > world.fence]) > 1:
        yield "two runnable messages in the queue"
    row = unpack(world.row)
    if not following:
        if row is None or not row.state.is_final:
            yield "stuck"
        elif row.publication is not Publication.NONE:
            yield "ended, but its publication stays open"
    if row is None:
        return
    for label, after in following:
        next_row = unpack(after.row)
        if next_row is not None and row.state.is_final and not next_row.state.is_final and "requeue" not in label:
            if "reschedule" not in label:
                yield "left a final state by itself"
        if row.state == "succeeded" and len(after.runs) > len(world.runs):
            yield "runs after its success is stored"
        if row.state == "deleted" and len(after.runs) > len(world.runs):
            yield "a deleted job starts"
        if next_row is not None and next_row.epoch < row.epoch:
            yield "the epoch falls"
