"""The first signal stops gracefully; the second is tested on real processes in tests/acceptance."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from broker_jobs.processes.signals import (
    EXIT_FAILED,
    ComponentFailed,
    LeaveAsked,
    ShutdownSignals,
    SignalReceived,
    StopFinished,
    serve,
)


class Recorder:
    """A component that records how it is stopped."""

    def __init__(self, *, in_time: bool = True) -> None:
        self.stopped_with: list[float] = []
        self.thread = ""
        self._in_time = in_time

    def stop(self, timeout: float) -> bool:
        self.stopped_with.append(timeout)
        self.thread = threading.current_thread().name
        return self._in_time

    def stop_now(self) -> None:
        raise AssertionError("stopped at once without a second signal")


def test_a_signal_stops_gracefully_in_another_thread() -> None:
    component = Recorder()
    with ShutdownSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert serve(component, signals, 7.0) == 0
    assert component.stopped_with == [7.0]
    assert component.thread != threading.main_thread().name


def test_the_handlers_before_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ShutdownSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_failed_component_is_stopped_and_the_process_exits_with_its_code() -> None:
    component, signals = Recorder(), ShutdownSignals()
    signals.put(ComponentFailed("the store belongs to another broker"))
    assert serve(component, signals, 1.0) == EXIT_FAILED
    assert component.stopped_with == [1.0]


def test_a_child_ignores_ctrl_c_and_a_second_sigterm() -> None:
    component = Recorder()
    with ShutdownSignals(has_parent=True) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert not signals.wait(0.05)
        signals.put(SignalReceived(signal.SIGTERM))
        signals.put(SignalReceived(signal.SIGTERM))
        assert serve(component, signals, 1.0) == 0
    assert component.stopped_with == [1.0]


def test_an_event_that_was_waited_for_stays_in_the_queue() -> None:
    signals = ShutdownSignals()
    assert not signals.wait(0)
    signals.put(StopFinished(True))
    assert signals.wait(0)
    assert signals.wait(0)
    assert signals.get() == StopFinished(True)


@pytest.mark.parametrize(("patient", "seconds"), [(True, float("inf")), (False, 3.0)])
def test_a_component_that_leaves_stops_once_in_the_time_for_it(patient: bool, seconds: float) -> None:
    component, signals = Recorder(), ShutdownSignals(has_parent=True)
    signals.put(LeaveAsked(patient))
    signals.put(LeaveAsked(False))
    signals.put(SignalReceived(signal.SIGTERM))
    assert serve(component, signals, 3.0) == 0
    assert component.stopped_with == [seconds]
