"""Walks one job, two workers, the log and a coordinator through every interleaving of chosen faults.

The decisions are the real ones (`coordinator.transition.decide`); broker, workers and faults are modelled. It looks for
what must never be: a job stuck, an epoch run twice, two runs at once, a run after the success is stored, a deleted job
that starts, a final state left without a person's command, two runnable messages.

Assumed, as in production: one worker stays alive; a grace outlives reconnect and flush; a fence reaches a worker before
it starts the message.

More than a million worlds are looked at. So worlds are tuples, which are hashed and compared fast, and what is decided
of a row and a record is worked out once.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
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
from broker_jobs.coordinator.state_machine.context import Context, Decision
from broker_jobs.coordinator.state_machine.decide import decide
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
"""A record, in the log or of the coordinator's own: what, epoch, worker, redelivered."""

Decide = Callable[[Row | None, JobRecord, Context], Decision]


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


class World(NamedTuple):
    """Everything at one moment."""

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
        for place, (name, left) in enumerate(self.faults):
            if name == fault and left > 0:
                return self._replace(faults=(*self.faults[:place], (name, left - 1), *self.faults[place + 1 :]))
        return None

    def worker(self, number: int, worker: Worker, **changes: Any) -> World:
        """This world with another worker in a place, and what else changes."""
        first, second = self.workers
        return self._replace(workers=(worker, second) if number == 0 else (first, worker), **changes)


_KEPT = (
    "state", "reason_code", "publication", "epoch", "attempt", "crashes", "returns", "unknowns", "interruptions",
    "lost_since", "fence", "owner", "owned",
)  # fmt: skip


def pack(row: Row | None) -> tuple[Any, ...] | None:
    """The columns of a row that decisions look at, hashable; times are reduced to "a grace is set"."""
    if row is None:
        return None
    return (*(getattr(row, name) for name in _KEPT), row.grace_until is not None, bool(row.envelope))


@cache
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


@cache
def record_of(entry: Log) -> JobRecord:
    """The real record behind a modelled one."""
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
        case "released":
            return Released("j", epoch)
        case "release unknown":
            return ReleaseUnknown("j", epoch)
        case "due":
            return TimerDue("j")
        case "proven lost":
            return ProvenLost("j", epoch)
        case "vanished" | "not listed":
            return LeaseOver("j", name, what)
        case _:
            raise AssertionError(what)


def decided(world: World, entry: Log, *, grace_over: bool = False) -> World:
    """The world after the coordinator decided a record and committed."""
    row, released, fence = _decision(decide, world.row, entry, grace_over)
    return world._replace(row=row, publishing=world.publishing + released, fence=max(world.fence, fence))


@cache
def _decision(
    decide: Decide, packed: tuple[Any, ...] | None, entry: Log, grace_over: bool
) -> tuple[tuple[Any, ...] | None, tuple[int, ...], int]:
    """What is decided: the row, the epoch to be published, and the fence."""
    before = unpack(packed)
    after = decide(before, record_of(entry), Context(1.0, ALWAYS if grace_over else NEVER, "c", lambda: 0.0)).row
    if after is None:
        return None, (), 0
    released = after.publication is Publication.PUBLISHING and (before is None or after.epoch != before.epoch)
    return pack(after), (after.epoch,) if released else (), after.fence


def steps(world: World) -> Iterator[tuple[str, World]]:
    """Everything that can happen next."""
    yield from _coordinator(world)
    yield from _people(world)
    for number in (0, 1):
        yield from _worker(world, number)


def _coordinator(world: World) -> Iterator[tuple[str, World]]:
    row = unpack(world.row)
    if world.copy_pending:
        yield "the copy reaches the log", world._replace(copy_pending=False, log=(*world.log, ("copy", 1, -1, False)))
    if world.log:
        entry, rest = world.log[0], world.log[1:]
        yield f"apply {entry}", decided(world._replace(log=rest), entry)
        spent = world.spend("log ack lost")
        if spent is not None and entry[0] not in ("delete", "requeue", "reschedule"):
            yield f"apply {entry}, its ack is lost", decided(spent, entry)
            yield f"apply {entry}, it comes again later", decided(spent._replace(log=(*rest, entry)), entry)
    if world.publishing:
        epoch, rest_out = world.publishing[0], world.publishing[1:]
        out = world._replace(publishing=rest_out, work=(*world.work, (epoch, False)))
        yield f"release {epoch} confirmed", decided(out, ("released", epoch, -1, False))
        spent = world.spend("coordinator dies")
        if spent is not None:
            lost = spent._replace(publishing=rest_out)
            yield f"dies before publishing {epoch}", decided(lost, ("release unknown", epoch, -1, False))
            there = lost._replace(work=(*lost.work, (epoch, False)))
            yield f"dies after publishing {epoch}", decided(there, ("release unknown", epoch, -1, False))
    if row is not None and row.state == "scheduled" and row.publication is Publication.NONE:
        if (row.grace_until is None or not _busy(world, row.epoch)) and not _leaving(world, row.epoch):
            yield "due", decided(world, ("due", 0, -1, False), grace_over=True)
    if (
        row is not None
        and row.publication is not Publication.NONE
        and row.state != "processing"
        and _nothing_out(world)
    ):
        yield "sweep", decided(world, ("proven lost", row.epoch, -1, False))


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
            yield what, spent._replace(log=(*spent.log, (what, 1, -1, False)))
    spent = world.spend("purge")
    if spent is not None and world.work:
        yield "purge", spent._replace(work=())


def _worker(world: World, number: int) -> Iterator[tuple[str, World]]:
    me = world.workers[number]
    row = unpack(world.row)
    told = any(entry[2] == number for entry in world.log)
    mine = row is not None and row.state == "processing" and row.owner == f"w{number}"
    if not me.alive:
        if mine and not told:
            yield f"lease of {number} over", decided(world, ("vanished", 0, number, False))
        return
    has = me.held is not None and row is not None and me.held.epoch == row.epoch
    runs = has and me.held is not None and me.held.phase in RUNS
    if mine and not told and not me.unsent and not runs:
        yield f"{number} does not list it", decided(world, ("not listed", 0, number, False))
    if me.unsent:
        entry = me.unsent[0]
        yield (
            f"{number} tells {entry}",
            world.worker(number, me._replace(unsent=me.unsent[1:]), log=(*world.log, entry)),
        )
    if me.held is None and not me.unsent and world.work:
        epoch, redelivered = world.work[0]
        taken = me._replace(held=HeldDelivery(epoch, redelivered, "held"), cut=False)
        yield f"{number} gets {epoch}", world.worker(number, taken, work=world.work[1:])
    if me.held is not None:
        yield from _delivery(world, number, me, me.held)
    spent = world.spend("worker dies")
    if spent is not None and (me.held or me.unsent) and _stays(world.workers[1 - number]):
        back = ((me.held.epoch, True), *spent.work) if me.held is not None and not me.cut else spent.work
        yield f"{number} dies", spent.worker(number, Worker(alive=False), work=back)


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
            runs = me._replace(held=held._replace(phase="runs"))
            yield f"{number} runs {held.epoch}", world.worker(number, runs, runs=(*world.runs, (held.epoch, number)))
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
        yield f"{number} has left", world.worker(number, Worker(alive=False), work=gone)
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
        yield f"{number} is cut off", spent.worker(number, cut, work=((held.epoch, True), *spent.work))


@dataclass
class Findings:
    """What a walk found: how many worlds, how many ends, and for each broken rule the way to it."""

    worlds: int = 0
    ends: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict)


def walk(limit: int = 400_000, **faults: int) -> Findings:
    """Go through every world that these faults can lead to. Raises when there are more than `limit`."""
    with _no_search_for_cycles():
        return _walk(limit, **faults)


@contextlib.contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Keep the garbage collector from going through all worlds again and again: tuples of tuples hold no cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _walk(limit: int, **faults: int) -> Findings:
    named = {name.replace("_", " "): count for name, count in faults.items()}
    start = World(faults=tuple(sorted(named.items())))
    number_of = {start: 0}
    worlds = [start]  # by number, as what follows
    came_from: list[tuple[int, str] | None] = [None]
    leads_to: list[list[int]] = [[]]
    ends: list[int] = []
    found = Findings()
    for number, world in enumerate(worlds):  # which grows meanwhile
        following = [(label, after) for label, after in steps(world) if after != world]
        if not following:
            ends.append(number)
        for rule in _broken(world, following):
            found.broken.setdefault(rule, _way(came_from, number))
        for label, after in following:
            place = number_of.setdefault(after, len(worlds))
            if place == len(worlds):
                worlds.append(after)
                came_from.append((number, label))
                leads_to.append([])
            leads_to[place].append(number)
        if len(worlds) > limit:
            raise AssertionError(f"more than {limit} worlds for {named}")
    found.worlds, found.ends = len(worlds), len(ends)
    circling = set(range(len(worlds))) - _leading_to(ends, leads_to)
    if circling:
        found.broken.setdefault("goes round in circles", _way(came_from, min(circling)))
    return found


def _leading_to(ends: list[int], leads_to: list[list[int]]) -> set[int]:
    """All worlds from which an end can be reached."""
    reached, todo = set(ends), list(ends)
    while todo:
        for before in leads_to[todo.pop()]:
            if before not in reached:
                reached.add(before)
                todo.append(before)
    return reached


def _way(came_from: list[tuple[int, str] | None], number: int) -> list[str]:
    way: list[str] = []
    while (step := came_from[number]) is not None:
        number = step[0]
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
