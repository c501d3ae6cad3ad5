"""Keeps abandoned words out: everything that was renamed has one standard name, and the old one does not come back.

A failure gives the file, the line, the old word and the one to write instead.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = frozenset({".py", ".md", ".html", ".css", ".js", ".yml", ".yaml", ".toml", ".conf", ".sh", ".txt", ".service"})

IDENTIFIERS = {
    # What travels.
    "Seal": "BatchCommit",
    "SealUnknown": "CommitUnknown",
    "Addition": "BatchSubmission",
    "Fill": "ResultArgument",
    "fills": "result_args",
    "MAX_FILLS": "MAX_RESULT_ARGS",
    "HandedBack": "Returned",
    "HandBackReason": "ReturnReason",
    "handed_back": "returned",
    "hand_back": "return_delivery",
    "CutOff": "Interruption",
    "Sighting": "BeatHeartbeat",
    "Whereabouts": "ProcessInfo",
    "AskBatch": "GetBatch",
    "AskFailures": "ListFailures",
    "AskJob": "GetJob",
    "AskSchedules": "ListSchedules",
    "DeleteParked": "DeleteDeadLetter",
    "ReplayParked": "ReplayDeadLetter",
    # The broker.
    "Exchange": "Broker",
    "EmbeddedExchange": "MemoryBroker",
    "EmbeddedSubscription": "MemoryConsumer",
    "RabbitExchange": "RabbitBroker",
    "RabbitSubscription": "RabbitConsumer",
    "PrivateSubscription": "PrivateConsumer",
    "StillExchange": "ManualBroker",
    "StillWorker": "ManualWorker",
    "Unsent": "Unconfirmed",
    "PARKED": "DEAD_LETTERS",
    "exchange_for": "broker_for",
    "watch_exchange": "watch_broker",
    "ladder_copy": "delay_copy",
    "step_for": "level_for",
    # The producer.
    "Asker": "RequestClient",
    "asker": "requests",
    "Mailbox": "ReplyQueue",
    "Sender": "Connection",
    "Awaited": "DependencyTarget",
    "nobody_answered": "no_answer",
    # The worker.
    "Settler": "Acknowledger",
    "settler": "acknowledger",
    "settle": "acknowledge",
    "Emitter": "EventSender",
    "emitter": "event_sender",
    "Parker": "DeadLetterPublisher",
    "parker": "dead_letter_publisher",
    "Heart": "HeartbeatSender",
    "heart": "heartbeat_sender",
    "Vitals": "ProcessStats",
    "vitals": "process_stats",
    "Intake": "Receiver",
    "intake": "receiver",
    "Tap": "FlowControl",
    "Taken": "ReceivedDelivery",
    "Threads": "ThreadPool",
    "Fences": "Revocations",
    "ControlLink": "ControlSubscription",
    "NoObserver": "NoWorkerObserver",
    "Wishes": "ShutdownSignals",
    # The coordinator.
    "Again": "ReadAgain",
    "At": "Context",
    "Why": "Reason",
    "Said": "Decision",
    "Answers": "Replies",
    "Asked": "CommandReceived",
    "Awaits": "WaitsAgain",
    "Beaten": "HeartbeatReceived",
    "Bell": "DueNotice",
    "read_bell": "read_due_notice",
    "Chunked": "ChunkReceived",
    "Gate": "PreciseTimer",
    "Held": "WaitingCopy",
    "Hold": "Dependencies",
    "HoldOver": "DependencyMet",
    "holds_of": "dependencies.of",
    "holds_on": "dependencies.on",
    "Hopeless": "DependencyFailed",
    "InLine": "LimitReached",
    "Metronome": "ScheduleTimer",
    "News": "Broadcasts",
    "Orphaned": "UnknownParents",
    "Piece": "QueuedInput",
    "Questions": "Queries",
    "SlotFree": "SlotFreed",
    "Sweep": "LostMessageDetector",
    "Swept": "ProvenLost",
    "Told": "FromWorker",
    "Unmet": "Unsatisfied",
    "unmet": "unsatisfied",
    "Unread": "Unreadable",
    "Unreleased": "ReleaseFailed",
    "Unsure": "ReleaseUnknown",
    "Waits": "DependencyRules",
    "WIRE": "PUBLICATION",
    "Wire": "Publication",
    "wire": "publication",
    "CAME_BACK": "RETURNED",
    "GIVEN_UP": "ABANDONED",
    "given_up": "abandoned",
    "never_sealed": "never_committed",
    "has_marks": "has_work_items",
    "unmark": "work_items.drop",
    # The store.
    "AdditionRow": "SubmissionRow",
    "save_addition": "submissions.save",
    "BondRow": "RelationRow",
    "bond": "relate",
    "HoldRow": "DependencyRow",
    "drop_holds": "dependencies.drop",
    "Ledger": "AuditStore, DeadLetterStore, QueueStore, ScheduleStore",
    "LineRow": "LogLineRow",
    "Listed": "AuditReader, DeadLetterReader, DeclarationReader",
    "Lookout": "DueJobs",
    "Limited": "LineStore",
    "MarkRow": "WorkItemRow",
    "Measured": "Statistics",
    "ParkedRow": "DeadLetterRow",
    "PartRow": "ComponentRow",
    "list_parts": "list_components",
    "save_part": "save_component",
    "Related": "RelationReader",
    "Searching": "JobReader",
    "Selecting": "JobSelector",
    "Wanted": "JobSelection",
    "park": "dead_letters.add",
    "unpark": "dead_letters.drop",
    "delete_parked": "delete_dead_letter",
    "replay_parked": "replay_dead_letter",
    # The dashboard and the processes.
    "Access": "Authentication",
    "AtDesk": "InContext",
    "Desk": "RequestContext",
    "desk": "context",
    "desk_of": "context_of",
    "Edited": "ArgumentForm",
    "Guard": "SecurityMiddleware",
    "House": "SystemStatus, StoreAccess",
    "house": "system",
    "HouseLookup": "SystemQueries",
    "HttpDoor": "HttpServer",
    "Live": "EventStreams",
    "Lookup": "Queries",
    "JobLookup": "JobQueries",
    "BatchLookup": "BatchQueries",
    "OverviewLookup": "OverviewQueries",
    "ScheduleLookup": "ScheduleQueries",
    "lookup": "queries",
    "lookup_of": "queries_of",
    "Meant": "FilterBody",
    "PartView": "ComponentView",
    "Planned": "CronForm",
    "Pulse": "ChangeView, MaintenanceThread",
    "Trouble": "Alert",
    "trouble": "alert",
    "troubles": "alerts",
    "CoordinatorCounts": "CoordinatorMetrics",
    "WorkerCounts": "WorkerMetrics",
}
"""Abandoned name in code -> the name to use. Whole names: in Python files, and between backticks in any text."""

WORDS = {
    r"parked|parking|unpark\w*": "dead letter, dead-lettered",
    r"bells?": "due notice",
    r"ladder": "delay queues",
    r"hand(s|ed|ing)?[ _]back": "return, returned",
    r"whereabouts": "process info",
    r"sightings?": "heartbeat of a beat",
    r"deeds?": "action",
    r"farewell": "final tick",
    r"unmet": "unsatisfied",
    r"at three in the morning": "Troubleshooting",
    r"the house": "Architecture; the system",
    r"the mail room": "the demo",
    r"lookout": "due jobs",
}
"""Abandoned word (a pattern, any case) -> the word to use; in names, comments and text alike."""

LABELS = {
    "In line": "Waiting for a limit",
}
"""Abandoned label (exactly so, in quotes or between tags) -> the label to use."""

OTHER_MEANING = {"Mailbox": "demo"}
"""Name -> a word in the paths of files where it is the plain word for something else."""


def files() -> Iterator[Path]:
    """Every file of ours that people read."""
    for top in ("broker_jobs", "tests", "docs", "deploy", "benchmarks", "examples", "tools"):
        for file in sorted((ROOT / top).rglob("*")):
            if file.suffix in TEXT and file != Path(__file__) and "results" not in file.parts:
                yield file
    yield ROOT / "README.md"


@cache
def read(file: Path) -> str:
    """A file's text."""
    return file.read_text(encoding="utf-8")


def identifiers(file: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of each name in code: Python's names, and what stands between backticks."""
    if file.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(read(file)).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string
    for number, line in enumerate(read(file).splitlines(), 1):
        for span in re.findall(r"`([^`]+)`", line):
            for name in re.findall(r"\w+", span):
                yield number, name


def place(file: Path, line: int) -> str:
    """File and line, as an editor opens them."""
    return f"{file.relative_to(ROOT).as_posix()}:{line}"


def fail_with(wrong: list[str]) -> None:
    """Fail with every place."""
    if wrong:
        pytest.fail("\n".join([*wrong, f"{len(wrong)} in all"]), pytrace=False)


def test_no_abandoned_name_comes_back() -> None:
    fail_with(
        [
            f"{place(file, line)}: {name}: write {IDENTIFIERS[name]}"
            for file in files()
            for line, name in identifiers(file)
            if name in IDENTIFIERS and OTHER_MEANING.get(name, "no such path") not in file.as_posix()
        ]
    )


def test_no_abandoned_word_comes_back() -> None:
    # An underscore separates words as a space does: the names of tests are sentences.
    patterns = [(re.compile(rf"(?<![a-z])(?:{word})(?![a-z])", re.IGNORECASE), new) for word, new in WORDS.items()]
    fail_with(
        [
            f"{place(file, number)}: {found.group(0)}: write {new}"
            for file in files()
            for number, line in enumerate(read(file).splitlines(), 1)
            for pattern, new in patterns
            if (found := pattern.search(line.replace("_", " ") if " " in pattern.pattern else line))
        ]
    )


def test_no_abandoned_label_comes_back() -> None:
    patterns = [(re.compile(rf"""[>"']{re.escape(label)}[<"']"""), new) for label, new in LABELS.items()]
    fail_with(
        [
            f"{place(file, number)}: {found.group(0)}: write {new}"
            for file in files()
            for number, line in enumerate(read(file).splitlines(), 1)
            for pattern, new in patterns
            if (found := pattern.search(line))
        ]
    )
