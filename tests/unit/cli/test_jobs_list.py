"""`jobs list` and `jobs show` find what the dashboard finds, and hide what it hides."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker_jobs.cli import main
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import ErrorInfo
from broker_jobs.messages.state import State
from broker_jobs.store import Row, Store

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with four jobs."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    opened = Store(url)
    opened.open()
    error = ErrorInfo(type="ValueError", message="no card", traceback="Traceback …").model_dump_json()
    with opened.transaction() as tx:
        for number, (state, tags) in enumerate(
            [(State.FAILED, "vip"), (State.SUCCEEDED, ""), (State.SCHEDULED, ""), (State.FAILED, "")]
        ):
            at = AT.timestamp() + number
            envelope = Envelope(
                id=f"j{number}",
                job="pay",
                args=[number],
                kwargs={"note": f"order-{number}", "token": "geheim"},
                created_at=AT,
            )
            tx.jobs.save(
                [
                    Row(
                        f"j{number}", job="pay", queue="mail" if number else "bulk", state=state, tags=tags,
                        envelope=codec.encode(envelope).decode(), created_at=at, changed_at=at, due_at=at,
                        error=error if state is State.FAILED else None, result='{"token": "geheim"}',
                    )
                ]
            )  # fmt: skip
    opened.close()
    return url


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints; its errors where it fails."""
    captured = both(capsys, *words, code=code)
    return captured[1] if code else captured[0]


def both(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """What a command prints, and what it says beside that."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["broker-jobs", "jobs", *words])
        try:
            main()
            left: object = 0
        except SystemExit as end:
            left = end.code or 0
    out, err = capsys.readouterr()
    assert left == code, out + err
    return out, err


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ["j3", "j2", "j1", "j0"]),
        (("--sort", "oldest"), ["j0", "j1", "j2", "j3"]),
        (("--state", "failed"), ["j3", "j0"]),
        (("--queue", "bulk"), ["j0"]),
        (("--tag", "vip"), ["j0"]),
        (("--error", "NO CARD"), ["j3", "j0"]),
        (("--search", "order-2"), ["j2"]),
        (("--search", "geheim"), []),
        (("--search", "geheim", "--unmasked"), ["j3", "j2", "j1", "j0"]),
        (("--since", "2026-01-01T00:00:02Z"), ["j3", "j2"]),
        (("--until", "2026-01-01T00:00:01Z"), ["j0"]),
        (("--state", "scheduled", "--sort", "due"), ["j2"]),
        (("--limit", "1"), ["j3"]),
    ],
)
def test_jobs_are_listed_as_the_dashboard_lists_them(
    capsys: pytest.CaptureFixture[str], store: str, options: tuple[str, ...], found: list[str]
) -> None:
    listed = json.loads(run(capsys, "list", "--store", store, "--json", *options))
    assert [job["id"] for job in listed] == found


def test_a_list_goes_on_at_its_cursor(capsys: pytest.CaptureFixture[str], store: str) -> None:
    _, said = both(capsys, "list", "--store", store, "--limit", "3")
    cursor = said.split("--cursor ")[1].strip()
    listed = json.loads(run(capsys, "list", "--store", store, "--json", "--cursor", cursor))
    assert [job["id"] for job in listed] == ["j0"]


def test_what_is_masked_is_shown_only_when_asked(capsys: pytest.CaptureFixture[str], store: str) -> None:
    for words in (("list",), ("list", "--json"), ("show", "j0"), ("show", "j0", "--json")):
        told = run(capsys, *words, "--store", store)
        assert "order-0" in told
        assert "geheim" not in told
        assert "geheim" in run(capsys, *words, "--store", store, "--unmasked")


def test_what_is_wrong_is_told(capsys: pytest.CaptureFixture[str], store: str) -> None:
    assert "--sort" in run(capsys, "list", "--store", store, "--sort", "colour", code=2)
    assert "did you mean 'failed'" in run(capsys, "list", "--store", store, "--state", "faild", code=2)
    assert "only scheduled jobs" in run(capsys, "list", "--store", store, "--state", "failed", "--sort", "due", code=2)
