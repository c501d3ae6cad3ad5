"""What must be true when a storm is over: every finding is a sentence."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker_jobs.messages import codec
from broker_jobs.messages.state import State
from broker_jobs.store import Store
from broker_jobs.store.row import Reason, Row
from tests.storm import jobs as program
from tests.storm.journal import ACCEPTED, COMMANDS, FAULTS, RUNS, read
from tests.support.invariants import broken

INFINITY = float("inf")
TOLD_SECONDS = 3.0
"""The outcome of a run is told within this of its end, if nothing is in the way."""
CONNECTED_SECONDS = 10.0
"""So long after a broker has come back all workers are connected again, on a slow machine."""
UNFROZEN_SECONDS = 1.0
CLOCK_SLACK = 0.002


@dataclass
class Run:
    """One start of a job, and how it ended."""

    id: str
    job: str
    pid: int
    start: float
    wall: float
    attempt: int
    facts: dict[str, Any]
    end: float = INFINITY
    how: str = ""
    blocked: str = ""
    """Why it may not be known that it runs."""
    excuse: str = ""
    """Why it may not be known that it runs, or how it ended: so the job may run again."""


@dataclass
class Fault:
    """A fault while it lasted."""

    kind: str
    how: str
    target: str
    pid: int
    begin: float
    over: float = INFINITY


@dataclass
class Seen:
    """All that was written down in a storm, and the rows of the store."""

    folder: Path
    store: Store
    rate_starts: dict[tuple[str, str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.accepted = read(self.folder / ACCEPTED)
        self.commands = read(self.folder / COMMANDS)
        self.faults = _faults(self.folder)
        self.ends_of_pids = {fault.pid: fault.begin for fault in self.faults if fault.pid and fault.how == "kill -9"}
        self.runs = _runs(self.folder)
        self.of_job: dict[str, list[Run]] = {}
        for run in self.runs:
            self.of_job.setdefault(run.id, []).append(run)
            self._excuse(run)
        self.rows: dict[str, Row] = {}
        before: str | None = None
        while page := self.store.reader.jobs.newest(limit=500, before_id=before):
            self.rows |= {row.id: row for row in page}
            before = page[-1].id
        self.said: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in self.commands:
            if line["what"] == "answer" and "id" in line and not line["answer"].startswith("refused"):
                self.said[line["id"]].append(line)
        answered = Counter((line["command"], line.get("id")) for line in self.commands if line["what"] == "answer")
        sent = Counter((line["command"], line.get("id")) for line in self.commands if line["what"] == "sent")
        self.unanswered = sent - answered

    def runs_of(self, id: str) -> list[Run]:
        """The runs of a job, by their starts."""
        return self.of_job.get(id, [])

    def told(self, id: str) -> list[dict[str, Any]]:
        """The answers to commands about a job that may have been applied."""
        return self.said.get(id, [])

    def asked(self, id: str, command: str) -> int:
        """How often a command about a job was sent that may have been applied."""
        known = sum(bool(line["command"] == command) for line in self.told(id))
        unanswered: int = self.unanswered[(command, id)]
        return known + unanswered

    def _excuse(self, run: Run) -> None:
        """Note how the ways of its worker were blocked while it ran, and until its outcome was told."""
        killed = self.ends_of_pids.get(run.pid, INFINITY)
        if run.end == INFINITY and killed < INFINITY:
            run.end, run.how = killed, "killed"
        told = self._told_by(run.end)
        for fault in self.faults:
            is_worker = fault.pid == run.pid
            if not is_worker and fault.kind not in ("node", "connections"):
                continue
            until = fault.over + (UNFROZEN_SECONDS if is_worker else CONNECTED_SECONDS)
            if until < run.start or fault.begin > told:
                continue
            why = f"its worker: {fault.how}" if is_worker else f"cut off: {fault.kind} {fault.how}"
            if fault.begin <= run.end:
                run.blocked = run.blocked if run.blocked and not is_worker else why
            run.excuse = run.excuse if run.excuse and not is_worker else why

    def _told_by(self, end: float) -> float:
        """When the outcome of a run was told at the latest: the broker may be away then, again and again."""
        told = end + TOLD_SECONDS
        for fault in self.faults:
            if fault.kind in ("node", "connections") and fault.begin <= told <= fault.over + CONNECTED_SECONDS:
                told = fault.over + CONNECTED_SECONDS
        return told


def _faults(folder: Path) -> list[Fault]:
    found: dict[str, Fault] = {}
    for line in read(folder / FAULTS):
        if line["what"] == "begin":
            found[line["number"]] = Fault(line["kind"], line["how"], line["target"], line["pid_of"], line["mono"])
        elif line["what"] == "over":
            found[line["number"]].over = line["mono"]
    return sorted(found.values(), key=lambda fault: fault.begin)


def _runs(folder: Path) -> list[Run]:
    runs: list[Run] = []
    open_runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for line in read(folder / RUNS):
        key = line["id"], line["pid"]
        if line["what"] == "start":
            known = ("what", "mono", "wall", "pid", "id", "attempt", "job")
            facts = {name: value for name, value in line.items() if name not in known}
            run = Run(line["id"], line["job"], line["pid"], line["mono"], line["wall"], line["attempt"], facts)
            runs.append(run)
            open_runs[key].append(run)
        else:
            run = next(run for run in open_runs[key] if run.attempt == line["attempt"])
            open_runs[key].remove(run)
            run.end, run.how = line["mono"], line["what"]
    return sorted(runs, key=lambda run: run.start)


def findings(seen: Seen) -> list[str]:
    """Everything that must not be, as sentences."""
    return [
        *broken(seen.store),
        *_lost(seen),
        *_twice(seen),
        *_early(seen),
        *_concurrency(seen),
        *_ordered(seen),
        *_rates(seen),
        *_unique(seen),
        *_children(seen),
        *_batches(seen),
        *_recurring(seen),
        *_dead_letters(seen),
    ]


def _about(seen: Seen, id: str) -> str:
    row = seen.rows.get(id)
    runs = [
        f"{run.start:.2f}..{run.end:.2f} {run.how or 'open'} pid {run.pid} attempt {run.attempt} [{run.excuse}]"
        for run in seen.runs_of(id)
    ]
    told = [(line["command"], round(line["mono"], 2), line["answer"]) for line in seen.told(id)]
    stored = "unknown" if row is None else f"{row.state} {row.reason_code} {row.reason!r} {row.history}"
    return f"runs {runs}; {stored}; {told}"


# --- lost, twice, early


def _lost(seen: Seen) -> list[str]:
    found = []
    accepted: dict[str, str] = {}
    for line in seen.accepted:
        if line["what"] == "accepted":
            accepted[line["id"]] = line["job"]
        elif line["what"] == "batch":
            accepted |= dict.fromkeys(line["members"], "member")
        elif line["what"] == "many":
            accepted |= dict.fromkeys(line["ids"], "work")
    for id, job in accepted.items():
        row = seen.rows.get(id)
        if row is None:
            found.append(f"{job} {id} was accepted and is not known: {_about(seen, id)}")
        elif not row.state.is_final:
            found.append(f"{job} {id} does not end: {_about(seen, id)}")
    for id, row in seen.rows.items():
        ends = Counter(run.how for run in seen.runs_of(id))
        if row.state is State.SUCCEEDED and not ends["end"]:
            found.append(f"{id} has succeeded and never ran to its end: {_about(seen, id)}")
        if row.state is State.FAILED and not _may_fail(seen, row, ends):
            found.append(f"{id} has failed without a reason: {_about(seen, id)}")
        if row.state is State.DELETED and not _may_be_deleted(seen, row):
            found.append(f"{id} is deleted and nobody asked for it: {_about(seen, id)}")
    unknown = {run.id for run in seen.runs} - set(seen.rows)
    return found + [f"{id} ran and is not known: {_about(seen, id)}" for id in unknown]


def _may_fail(seen: Seen, row: Row, ends: Counter[str]) -> bool:
    if row.job == "refuse":
        return bool(ends["gave up"]) or "died" in row.reason
    if "died" in row.reason:
        return sum(bool(run.excuse) for run in seen.runs_of(row.id)) >= 3
    return False


def _may_be_deleted(seen: Seen, row: Row) -> bool:
    if row.reason_code in (Reason.ALIAS, Reason.UNSATISFIED):
        return True
    return bool(seen.asked(row.id, "delete"))


def _twice(seen: Seen) -> list[str]:
    found = []
    for id, runs in seen.of_job.items():
        spare = seen.asked(id, "requeue") + seen.asked(id, "reschedule")
        for run, following in itertools.pairwise(runs):
            is_retry = run.how in ("raised", "killed") and run.end <= following.start
            if not is_retry and not run.excuse:
                spare -= 1
        if spare < 0:
            found.append(f"{runs[0].job} {id} ran {len(runs)} times: {_about(seen, id)}")
    return found


def _early(seen: Seen) -> list[str]:
    found = []
    for id, runs in seen.of_job.items():
        touched = seen.asked(id, "requeue") + seen.asked(id, "reschedule")
        not_before = runs[0].facts.get("not_before", 0.0)
        if not touched and runs[0].wall + CLOCK_SLACK < not_before:
            found.append(f"{id} ran {not_before - runs[0].wall:.3f} s before its time: {_about(seen, id)}")
        for line in seen.told(id):
            if line["command"] != "reschedule" or line["answer"] != "done" or len(seen.told(id)) > 1:
                continue
            history = seen.rows[id].history if id in seen.rows else []
            before = [state for at, state, _ in history if at < line["wall"]][:-1]
            if set(before) != {"scheduled"}:  # its message was out: the worker may not have heard of the fence in time
                continue
            early = [run for run in runs if run.start > line["mono"] and run.wall + CLOCK_SLACK < line["due"]]
            going = [run for run in runs if run.start <= line["mono"] and run.excuse]
            if early and not going:
                found.append(f"{id} ran before the time that it was given: {_about(seen, id)}")
        if not touched:
            for run, following in itertools.pairwise(runs):
                if run.how == "raised" and following.attempt == run.attempt + 1:
                    if following.start - run.end + CLOCK_SLACK < program.BACKOFF:
                        found.append(f"{id} did not wait for its retry: {_about(seen, id)}")
    return found


# --- limits


def _concurrency(seen: Seen) -> list[str]:
    found = []
    for job, limit in (("narrow", program.NARROW), ("wide", program.WIDEST)):
        found += _at_most(seen, [run for run in seen.runs if run.job == job], limit, job)
    queued: dict[str, list[Run]] = defaultdict(list)
    for run in seen.runs:
        if run.job == "planned" and run.facts["name"].split("-")[1] in ("queue", "skip"):
            queued[run.facts["name"]].append(run)
        elif run.job == "unique_running":
            queued[f"unique running {run.facts['key']}"].append(run)
        elif run.job == "ordered":
            queued[f"ordered {run.facts['key']}"].append(run)
    for name, runs in queued.items():
        found += _at_most(seen, runs, 1, name)
    return found


def _at_most(seen: Seen, runs: list[Run], limit: int, what: str) -> list[str]:
    """Never more runs at once than the limit; a run whose worker was frozen or cut off meanwhile does not count."""
    found = []
    going: list[Run] = []
    for run in runs:
        going = [each for each in going if each.end > run.start]
        going.append(run)
        counted = [each for each in going if not each.blocked or each.how == "killed"]
        if len(counted) > limit:
            about = "; ".join(f"{each.id}: {_about(seen, each.id)}" for each in counted)
            found.append(f"{len(counted)} runs of {what} at once, which has {limit}: {about}")
    return found


def _ordered(seen: Seen) -> list[str]:
    found = []
    last: dict[str, Run] = {}
    firsts: set[str] = set()
    for run in seen.runs:
        if run.job != "ordered" or run.id in firsts:
            continue
        firsts.add(run.id)
        key = run.facts["key"]
        before = last.get(key)
        if before is not None and before.facts["number"] > run.facts["number"]:
            found.append(
                f"number {run.facts['number']} of {key} ran after {before.facts['number']}:"
                f" {run.id}: {_about(seen, run.id)}; {before.id}: {_about(seen, before.id)}"
            )
        if before is not None:
            of_before = seen.runs_of(before.id)
            rows_end = [each for each in of_before if each.start > run.end and not any(e.excuse for e in of_before)]
            if rows_end:
                found.append(f"{before.id} ran again after {run.id} of its key: {_about(seen, before.id)}")
        last[key] = run
    return found


def _rates(seen: Seen) -> list[str]:
    found = []
    of_key: dict[str, list[float]] = defaultdict(list)
    for (key, _, _), at in seen.rate_starts.items():
        of_key[key].append(at)
    for key, starts in of_key.items():
        starts.sort()
        for number, at in enumerate(starts[program.RATE :]):
            if at - starts[number] < program.RATE_SPAN:
                found.append(f"{program.RATE + 1} starts of {key} within {at - starts[number]:.3f} s, at {at}")
    return found


# --- unique keys


def _unique(seen: Seen) -> list[str]:
    found = []
    held: dict[str, list[tuple[float, float, Row]]] = defaultdict(list)
    for row in seen.rows.values():
        if not row.job.startswith("unique_") or not row.envelope or row.reason_code == Reason.ALIAS:
            continue
        key = codec.decode(row.envelope).unique
        if key is None or not row.history or seen.told(row.id):
            continue
        taken = row.history[0][0]
        if key.scope == "window":
            until = taken + program.UNIQUE_WINDOW
        elif key.scope == "queued":
            until = next((at for at, state, _ in row.history if state == "processing"), row.changed_at)
        else:
            until = row.changed_at
        held[key.key].append((taken, until, row))
    for key_name, holds in held.items():
        holds.sort(key=lambda hold: hold[0])
        for (_, until, one), (taken, _, other) in itertools.pairwise(holds):
            if taken + CLOCK_SLACK < until:
                found.append(
                    f"{one.id} and {other.id} both hold {key_name}: {_about(seen, one.id)}; {_about(seen, other.id)}"
                )
    return found


# --- children and batches


def _children(seen: Seen) -> list[str]:
    found = []
    for id, runs in seen.of_job.items():
        first = runs[0]
        if first.job not in ("child", "takes") or _is_taken_over(seen, id):
            continue
        if first.facts.get("right") is False:
            found.append(f"{id} has another result than its parent's: {_about(seen, id)}")
        found += [
            f"{id} ran before the end of {parent}: {_about(seen, id)}; {_about(seen, parent)}"
            for parent in first.facts["parents"]
            if not _had_ended(seen, parent, first.facts["on"], first.start)
        ]
    return found


def _is_taken_over(seen: Seen, id: str) -> bool:
    """Whether a person let it run, whatever it waited for."""
    return bool(seen.asked(id, "requeue") or seen.asked(id, "reschedule"))


def _had_ended(seen: Seen, parent: str, on: str, at: float) -> bool:
    row = seen.rows.get(parent)
    if row is not None and row.is_alias:
        return True
    hows = {"succeeded": ("end",), "failed": ("gave up",), "finished": ("end", "gave up")}[on]
    if any(run.how in hows and run.end <= at for run in seen.runs_of(parent)):
        return True
    if on == "finished" and seen.asked(parent, "delete"):
        return True
    if on == "finished" and row is not None and row.reason_code == Reason.UNSATISFIED:
        return True
    return on != "succeeded" and row is not None and "died" in row.reason


def _batches(seen: Seen) -> list[str]:
    found = []
    for line in seen.accepted:
        if line["what"] != "batch":
            continue
        kept = seen.store.reader.batches.get(line["id"])
        if kept is None:
            found.append(f"batch {line['id']} was accepted and is not known")
            continue
        inner = seen.store.reader.batches.inside(line["id"])
        states = Counter(str(seen.rows[id].state) for id in line["members"] if id in seen.rows)
        total = kept.succeeded + kept.failed + kept.deleted - len(inner)
        total += sum(each.succeeded + each.failed + each.deleted for each in inner)
        if total != len(line["members"]) or kept.open or not State(kept.state).is_final:
            found.append(f"batch {line['id']} is {kept}, with {inner}; its members are {states}")
        want = "failed" if states["failed"] else "deleted" if set(states) == {"deleted"} else "succeeded"
        if kept.state != want:
            found.append(f"batch {line['id']} is {kept.state}; its members are {states}")
    of_batch = {line["id"]: line["members"] for line in seen.accepted if line["what"] == "batch"}
    for run in seen.runs:
        if run.job != "summary" or run.facts["batch"] not in of_batch or _is_taken_over(seen, run.id):
            continue
        found += [
            f"{run.id} ran before the end of {member} of its batch: {_about(seen, member)}"
            for member in of_batch[run.facts["batch"]]
            if not _had_ended(seen, member, "finished", run.start)
        ]
    return found


# --- recurring jobs


def _recurring(seen: Seen) -> list[str]:
    found = []
    of_name: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in seen.rows.values():
        if row.recurring is None or not row.envelope:
            continue
        due = codec.decode(row.envelope).due_at
        if due is None:
            continue
        planned_at = due.timestamp()
        if planned_at in of_name[row.recurring]:
            found.append(f"{row.recurring} ran twice for {planned_at}: {_about(seen, row.id)}")
        of_name[row.recurring][planned_at] = row
        found += [
            f"{row.recurring} ran {planned_at - run.wall:.3f} s early: {_about(seen, row.id)}"
            for run in seen.runs_of(row.id)[:1]
            if run.wall + CLOCK_SLACK < planned_at
        ]
    for name, times in of_name.items():
        misfire, overlap = name.split("-")
        ordered = sorted(times)
        step = program.PLANNED_EVERY
        for before, after in itertools.pairwise(ordered):
            missing = [before + step * n for n in range(1, round((after - before) / step))]
            if not missing or overlap == "skip":
                continue
            decided_at = times[after].history[0][0]
            if misfire == "all":
                found.append(f"{name} left out {missing} between {before} and {after}")
            elif decided_at - missing[-1] < 5.0:
                found.append(f"{name} left out {missing[-1]}, decided {decided_at - missing[-1]:.1f} s late")
        for planned_at, row in times.items():
            late = row.history[0][0] - planned_at
            if misfire == "skip" and late > 60.0 + CLOCK_SLACK:
                found.append(f"{name} ran {planned_at}, which was decided {late:.1f} s late")
    return found


def _dead_letters(seen: Seen) -> list[str]:
    return [
        f"dead letter of {letter.origin}: {letter.reason}: {letter.body[:300]!r}"
        for letter in seen.store.reader.dead_letters.oldest(100)
    ]


def summary(seen: Seen) -> dict[str, Any]:
    """Figures of a storm."""
    again = Counter[str]()
    for id, runs in seen.of_job.items():
        if seen.asked(id, "requeue") or seen.asked(id, "reschedule"):
            continue
        for run, _ in itertools.pairwise(runs):
            why = run.how if run.how in ("raised", "gave up", "killed") else f"{run.how or 'open'} ({run.excuse})"
            again[why] += 1
    return {
        "accepted": sum(line["what"] == "accepted" for line in seen.accepted),
        "rows": len(seen.rows),
        "runs": len(seen.runs),
        "kinds": dict(Counter(run.job for run in seen.runs)),
        "states": dict(Counter(str(row.state) for row in seen.rows.values())),
        "run again after": dict(again),
        "rate starts": len(seen.rate_starts),
    }
