"""The demo does what it shows, ends by itself, and does not say "exact" when it is not."""

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.acceptance.conftest import Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def table(output: str) -> dict[str, tuple[int, int, int]]:
    """Kind of mail -> asked, delivered, retried, from what was printed."""
    found = re.findall(r"^\s*([a-z-]+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[a-z]", output, re.MULTILINE)
    return {kind: (int(asked), int(delivered), int(retried)) for kind, asked, delivered, retried in found}


def assert_exact(output: str) -> None:
    """What the sample must come to."""
    counted = table(output)
    assert [*counted] == ["welcome", "receipt", "follow-up", "newsletter", "report", "digest"]
    assert counted["welcome"] == counted["follow-up"] == counted["newsletter"] == (40, 40, 3)
    assert counted["receipt"] == (40, 40, 0)
    assert counted["report"] == (1, 1, 0)
    asked, delivered, retried = counted["digest"]
    assert asked == delivered >= 4 * 9
    assert asked % 9 == retried == 0
    assert "each once, and never more than 3 at once to a domain" in output


def test_it_delivers_the_sample_exactly_on_memory(terminal: Terminal) -> None:
    output = terminal.output("demo")
    assert_exact(output)
    assert "line 25: 'charles.babbage(at)example.com' is not an e-mail address; skipped" in output


@pytest.mark.rabbitmq
def test_it_delivers_the_sample_exactly_on_rabbitmq_twice_in_a_row(terminal: Terminal, vhost: Vhost) -> None:
    for _ in range(2):
        assert_exact(terminal.output("demo", "--url", vhost.url, "--store", terminal.store))


@pytest.mark.rabbitmq
def test_a_killed_demo_leaves_the_next_one_exact(terminal: Terminal, vhost: Vhost) -> None:
    first = terminal.start("demo", "--url", vhost.url, "--store", terminal.store)
    first.said("delivered: welcome")
    first.process.kill()
    first.exit_code()
    assert_exact(terminal.output("demo", "--url", vhost.url, "--store", terminal.store))


def test_a_list_of_ones_own_is_used_and_its_bad_rows_are_named(terminal: Terminal) -> None:
    Path(terminal.folder / "mine.csv").write_bytes(
        b"\xef\xbb\xbfname,email\nAnn,ann@example.com\nBob\nJ\xfcrgen,j@example.com\n\nEve,bounce@example.com\nMax,\n"
    )
    output = terminal.output("demo", "--subscribers", "mine.csv")
    counted = table(output)
    assert counted["welcome"] == counted["follow-up"] == counted["newsletter"] == (2, 2, 1)
    assert counted["receipt"] == (2, 2, 0)
    assert counted["report"] == (1, 1, 0)
    assert counted["digest"][0] == counted["digest"][1]
    assert "mine.csv line 3: 1 column, the header has 2; skipped" in output
    assert "mine.csv line 4: not UTF-8; skipped" in output
    assert "mine.csv line 7: no address; skipped" in output


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), ("", "is empty"), ("Ann,ann@example.com\n", "has no header")]
)
def test_a_list_that_cannot_be_used_is_an_error_of_one_line(terminal: Terminal, content: str | None, says: str) -> None:
    if content is not None:
        Path(terminal.folder / "mine.csv").write_text(content)
    done = terminal.call("demo", "--subscribers", "mine.csv")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_not_there_is_an_error_of_one_line(terminal: Terminal) -> None:
    done = terminal.call("demo", "--url", "amqp://guest:secret@127.0.0.1:9/", "--store", terminal.store)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_it_stays_until_it_is_told_to_leave_and_is_exact_then(terminal: Terminal) -> None:
    demo = terminal.start("demo", "--stay")
    demo.said("Staying", timeout=60)
    address = re.search(r"metrics\s+(http\S+)", demo.log)
    health = re.search(r"health\s+(http\S+)", demo.log)
    store = re.search(r"store\s+(sqlite\S+)", demo.log)
    assert address
    assert health
    assert store
    with urllib.request.urlopen(address.group(1), timeout=30) as answer:
        assert re.search(r'"welcome",outcome="raised",queue="mail"} 3', answer.read().decode())
    with urllib.request.urlopen(health.group(1), timeout=30) as answer:
        assert answer.status == 200
    assert "welcome" in terminal.output("jobs", "list", "--job", "welcome", "--store", store.group(1))
    eventually(
        lambda: "not an e-mail" in terminal.output("jobs", "list", "--state", "failed", "--store", store.group(1)), 30
    )
    dashboard = re.search(r"dashboard\s+(http\S+)", demo.log)
    assert dashboard
    with urllib.request.urlopen(f"{dashboard.group(1)}jobs?state=failed", timeout=30) as answer:
        assert "charles.babbage(at)example.com" in answer.read().decode()
    demo.signal(signal.SIGINT)
    assert demo.exit_code() == 0
    counted = table(demo.log)
    assert counted["welcome"] == (40, 40, 3)
    assert counted["digest"][0] == counted["digest"][1] >= 36


def test_ctrl_c_ends_it_at_once_and_leaves_no_file(terminal: Terminal) -> None:
    demo = terminal.start("demo")
    demo.said("delivered: welcome")
    store = re.search(r"store\s+sqlite:///(\S+)", demo.log)
    assert store
    demo.signal(signal.SIGINT)
    assert demo.exit_code() == 130
    assert "interrupted" in demo.log
    assert "Traceback" not in demo.log
    assert not Path(store.group(1)).parent.exists()
