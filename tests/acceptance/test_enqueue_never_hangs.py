"""Every call of a producer ends, with a value or an error of ours, from every place from which programs make it.

The programs are processes of their own, with a watchdog: tests/support/places.py.
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

CALLS = {"enqueue", "schedule", "enqueue_many", "batch", "publish", "state", "result", "delete", "put", "pause"}
AWAITED = CALLS - {"delete", "put", "pause"}
TIMEOUT = 300
"""Seconds; the program itself shows what hangs after 100."""


def start(url: str, place: str, folder: Path) -> subprocess.Popen[str]:
    """Run the program in one place."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.places", url, place],
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "BROKER_JOBS_STORE": f"sqlite:///{folder / 'store.db'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(url: str, place: str, folder: Path) -> Counter[str]:
    """Run the program in one place to its end; how often each of its lines begins with the same label and call."""
    program = start(url, place, folder)
    try:
        out, err = program.communicate(timeout=TIMEOUT)
    finally:
        program.kill()
    assert program.returncode == 0, f"{out[-2000:]}\n{err[-6000:]}"
    return heads(out)


def heads(out: str) -> Counter[str]:
    """The label and the call of each line."""
    return Counter(
        " ".join(words[: place + 1])
        for words in (line.split() for line in out.splitlines())
        for place in range(len(words))
        if words[place] in CALLS and place < 3
    )


@pytest.fixture(params=["memory", "rabbitmq"])
def url(request: pytest.FixtureRequest, vhost: Vhost) -> str:
    """The address of each broker."""
    return "memory://" if request.param == "memory" else vhost.url


def test_in_the_io_thread(url: str, tmp_path: Path) -> None:
    assert output_of(url, "io_thread", tmp_path) >= Counter(CALLS)


@pytest.mark.parametrize("place", ["signal_handler", "signal_handler_while_it_connects"])
def test_in_a_signal_handler_in_the_midst_of_a_call(url: str, place: str, tmp_path: Path) -> None:
    seen = output_of(url, place, tmp_path)
    assert seen >= Counter(f"after {call}" for call in CALLS)
    assert any(label.startswith("handler ") for label in seen)


@pytest.mark.parametrize("place", ["interrupted", "interrupted_while_it_connects"])
def test_after_a_call_that_was_interrupted_at_any_of_its_steps(url: str, place: str, tmp_path: Path) -> None:
    assert output_of(url, place, tmp_path) >= Counter(f"after {call}" for call in CALLS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_children_of_a_fork_while_other_threads_are_in_each_call(url: str, tmp_path: Path) -> None:
    seen = output_of(url, "forked", tmp_path)
    assert seen >= Counter(f"child {number} {call}" for number in range(8) for call in CALLS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_child_of_a_fork_after_start_which_refuses_and_in_its_parent(url: str, tmp_path: Path) -> None:
    seen = output_of(url, "forked_after_start", tmp_path)
    assert seen >= Counter(f"child 0 {call}" for call in CALLS) + Counter(f"parent {call}" for call in CALLS)


def test_in_event_loops_one_after_the_other_and_side_by_side(url: str, tmp_path: Path) -> None:
    seen = output_of(url, "loops", tmp_path)
    assert seen >= Counter(f"loop {number} {call}" for number in range(3) for call in AWAITED)
    assert seen >= Counter([f"beside {call}" for call in AWAITED] * 3 + [f"after {call}" for call in AWAITED])


@pytest.mark.parametrize("place", ["at_exit", "at_exit_first"])
def test_in_an_atexit_handler(url: str, place: str, tmp_path: Path) -> None:
    assert output_of(url, place, tmp_path) >= Counter(f"at exit {call}" for call in CALLS)


def test_in_a_finalizer_when_the_interpreter_exits(url: str, tmp_path: Path) -> None:
    assert output_of(url, "dropped", tmp_path) >= Counter(f"dropped {call}" for call in CALLS - {"put"})


def test_in_daemon_threads_when_the_interpreter_exits(url: str, tmp_path: Path) -> None:
    output_of(url, "daemon_thread", tmp_path)


def close_connections(vhost: Vhost) -> Callable[[], None]:
    vhost.close_connections()
    return lambda: None


def stop(vhost: Vhost) -> Callable[[], None]:
    vhost.broker.stop()
    return vhost.broker.start


@pytest.mark.parametrize("outage", [close_connections, stop])
def test_in_a_logging_handler_at_the_root_at_debug_during_an_outage(
    vhost: Vhost, outage: Callable[[Vhost], Callable[[], None]], tmp_path: Path
) -> None:
    log = tmp_path / "out"
    with log.open("w") as out, (tmp_path / "err").open("w") as err:
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.support.places", vhost.url, "logging_handler"],
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            text=True,
        )
    assert program.stdin is not None
    try:
        eventually(lambda: log.read_text().count("ready\n") == 1, 60, "started")
        end_outage = outage(vhost)
        program.stdin.write("\n")
        program.stdin.flush()
        eventually(lambda: log.read_text().count("ready\n") == 2, 60, "the calls in the outage have ended")
        end_outage()
        program.stdin.write("\n")
        program.stdin.flush()
        program.wait(TIMEOUT)
    finally:
        program.kill()
        program.wait()
        with contextlib.suppress(OSError):
            program.stdin.close()
    text = log.read_text()
    assert program.returncode == 0, text[-2000:] + (tmp_path / "err").read_text()[-6000:]
    assert heads(text) >= Counter([*(f"meanwhile {call}" for call in CALLS), *(f"after {call}" for call in CALLS)])
