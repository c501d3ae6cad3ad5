"""Raises an exception in the thread of a sync job, while the job's own function runs and at no other time.

CPython raises it at the next step of the thread's Python code: it cannot end a call in C, such as `time.sleep`. It may
come between any two steps, so all that matters is where it cannot come: into another job, or into code of ours between
two jobs.

* A sender first says that it sends, and then looks whether the function runs, both under a lock.
* The thread does it the other way round: when the function has ended it first withdraws that it runs, and then looks
  whether there was a sender. Then it takes the lock once, and that sender is through. Most runs take no lock.
* So at most one exception is still on its way. The thread lets it come, inside a `try` of ours, and goes on.

Separate from `running.py`, as every line here has to be read with an exception between any two steps in mind.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any

from broker_jobs.producer.current_job import JobCancelled

MAX_POSTPONED = 10
"""So many looks, a second, an exception is kept back from code that would leave a lock of the whole process taken."""
_FRAGILE = ("logging", "broker_jobs")
_sending = Lock()
"""One for all runs: exceptions are rare."""

_set_async_exc = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
"""None on another Python than CPython: there a job has to ask `cancelled()`."""
if _set_async_exc is not None:
    _set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
    _set_async_exc.restype = ctypes.c_int
_NOTHING = ctypes.py_object()
"""NULL: takes back what has not come."""
_MAY_TAKE_BACK = sys.version_info >= (3, 12)
"""On 3.11, to take back what has come already leaves the interpreter looking for it for ever. In a thread that is
traced, as by coverage or a debugger, no step of Python code ends then."""


class ThreadInterrupt:
    """The exception that one run may get from another thread. One for each run."""

    __slots__ = ("_asked", "_postponed", "_sent", "_thread_id", "_withdrawn")

    def __init__(self) -> None:
        self._thread_id: int | None = None
        """The thread, while the function runs in it."""
        self._asked: type[JobCancelled] | None = None
        self._postponed = 0
        self._sent = 0
        self._withdrawn = 0
        """Of these, exceptions that came when the function had ended."""

    @property
    def delivered(self) -> bool:
        """Whether the function got an exception, whatever it did with it."""
        return self._sent > self._withdrawn

    @property
    def waits(self) -> bool:
        """Whether an exception is kept back: `send` it again a moment later."""
        return self._postponed > 0

    def send(self, exception: type[JobCancelled]) -> None:
        """Raise `exception` in the function; before it runs: as soon as it begins. From any thread."""
        with _sending:
            self._asked = exception
            thread_id = self._thread_id  # it may withdraw it in the next moment, and then waits for this lock
            if thread_id is None or _set_async_exc is None:
                return
            if self._postponed < MAX_POSTPONED and _is_fragile(thread_id):
                self._postponed += 1
                return
            self._postponed = 0
            self._sent += 1
            _set_async_exc(thread_id, exception)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function in this thread; what it returns.

        Raises:
            BaseException: what the function raised, or what was sent to it.
        """
        value: Any = None
        error: BaseException | None = None
        try:
            try:
                self._begin()
                value = function(*args, **kwargs)
            except BaseException as raised:  # noqa: BLE001  # raised again below
                self._thread_id = None
                error = raised
            else:
                self._thread_id = None
            self._end()
        except JobCancelled:  # the function had ended when it came, and there is no second one
            self._withdrawn += 1
            self._end()
        if error is not None:
            frames = error.__traceback__
            try:
                raise error.with_traceback(None if frames is None else frames.tb_next)  # this frame once
            finally:
                error = frames = None  # its traceback holds this frame: a cycle
        return value

    def _begin(self) -> None:
        self._thread_id = get_ident()
        if self._asked is None:
            return
        with _sending:
            if self._sent:  # it comes by itself
                return
            self._sent = 1
        raise self._asked

    def _end(self) -> None:
        self._thread_id = None
        if self._asked is None:
            return
        with _sending:  # a sender that has seen the thread is through
            on_its_way = self._sent > 0
        if on_its_way and _set_async_exc is not None:
            for _ in range(3):  # a jump backwards is a step at which it comes
                pass
            if _MAY_TAKE_BACK:
                _set_async_exc(get_ident(), _NOTHING)


def _is_fragile(thread_id: int) -> bool:
    """Whether the thread is in code that an exception between two steps may leave with a lock taken.

    A handler of logging takes its lock in one step and enters its `try` in the next. All threads log with it. And of
    what comes inside a `__del__` Python only says that it is ignored.
    """
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001  # the only way to see it
    while frame is not None and frame.f_code is not ThreadInterrupt.call.__code__:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _FRAGILE or (frame.f_code.co_name == "__del__"):
            return True
        frame = frame.f_back
    return False
