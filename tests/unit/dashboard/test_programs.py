"""What is said of programs that share a name or a queue, of jobs that nobody knows, and of removed declarations."""

import pytest

from broker_jobs.dashboard.programs import SHOWN_SECONDS, Programs, find_problems
from broker_jobs.store.declarations import RemovedDeclaration
from broker_jobs.store.known_jobs import HeldJobs, KnowingWorker

JOBS = {"old": frozenset({"a", "b"}), "new": frozenset({"a", "b", "c"}), "bill": frozenset({"x"})}


def worker(service: str, code: str, *queues: str) -> KnowingWorker:
    return KnowingWorker(service, frozenset(queues or ("default",)), code, has_room=True)


def said(programs: Programs) -> list[str]:
    return [problem.what for problem in find_problems(programs)]


def test_workers_of_one_name_and_code_are_no_problem() -> None:
    same = [worker("shop", "old"), worker("shop", "old", "mail"), worker("billing", "bill", "bills")]
    assert said(Programs(0.0, same, JOBS)) == []


def test_workers_of_one_name_with_different_code_are_said_with_what_only_some_of_them_know() -> None:
    found = said(Programs(0.0, [worker("shop", "old"), worker("shop", "new"), worker("shop", "untold")], JOBS))
    assert found == ["workers of shop have different code: not all of them know c"]


@pytest.mark.parametrize(
    ("service", "code", "title"), [("billing", "bill", "billing"), ("", "bill", "a program without a name")]
)
def test_programs_that_share_a_queue_and_not_their_jobs_are_said(service: str, code: str, title: str) -> None:
    workers = [worker("shop", "old", "default", "mail"), worker(service, code, "default", "bills")]
    (found,) = find_problems(Programs(0.0, workers, JOBS))
    first, second = sorted(("shop", title))
    assert found.what.startswith(f"{first} and {second} share the queue default and do not know each other's jobs")
    assert (found.is_error, "a queue of its own" in found.do) == (False, True)


def test_programs_with_the_same_jobs_or_other_queues_may_have_other_names() -> None:
    assert said(Programs(0.0, [worker("shop", "old"), worker("shop2", "old")], JOBS)) == []
    assert said(Programs(0.0, [worker("shop", "old"), worker("billing", "bill", "bills")], JOBS)) == []
    assert said(Programs(0.0, [worker("shop", "old"), worker("billing", "", "default")], JOBS)) == []


def test_held_jobs_are_an_error_with_their_names() -> None:
    held = [HeldJobs("default", "old", 12), HeldJobs("mail", "send", 1)]
    (found,) = find_problems(Programs(0.0, held=held))
    assert found.what == "13 jobs that no living worker knows: old in queue default (12), send in queue mail (1)"
    assert found.is_error


def test_removed_declarations_are_shown_for_a_day() -> None:
    removed = [
        RemovedDeclaration("shop", "recurring job", "nightly", 10.0),
        RemovedDeclaration("shop", "recurring job", "weekly", 20.0),
        RemovedDeclaration("shop", "subscription", "sold → count", 20.0),
    ]
    found = said(Programs(30.0, removed=removed))
    assert found[0].startswith("2 recurring jobs of shop removed, as its code does not declare them any more: nightly")
    assert found[1].startswith("1 subscription of shop removed, as its code does not declare it any more: sold → count")
    assert said(Programs(21.0 + SHOWN_SECONDS, removed=removed)) == []
