"""Runs async attempts: one event loop in a thread of its own. What it is given has a slot already.

The loop outlives what a job does to it: SystemExit and KeyboardInterrupt in a task or a callback, and `loop.stop()`,
make asyncio leave `run_forever`; it is then entered again, and all other tasks go on.

Over 300 lines: what a job may do to the loop, and what is done about it, is read best in one place.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.running import Run

logger = logging.getLogger(__name__)

MAX_FRAMES = 20
"""So many frames of a blocked loop are shown, the innermost last."""
BROKEN_PAUSE_SECONDS = 1.0
"""Before a loop is entered again that ended by an error of its own, which may come again at once."""


class LoopStopped(Exception):
    """The event loop has ended, as its worker has; what was to run on it was not started."""


class EventLoop:
    """An event loop that awaits `work`, and then calls `ended`; its thread starts with the first delivery."""

    def __init__(
        self,
        work: Callable[[ReceivedDelivery], Coroutine[Any, Any, None]],
        ended: Callable[[ReceivedDelivery], ReceivedDelivery | None],
    ) -> None:
        """
        Args:
            work: runs a delivery.
            ended: gives its slot back; what this loop runs next, or None.
        """
        self._work = work
        self._ended = ended
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._handed: dict[ReceivedDelivery, bool] = {}
        """What the loop has not begun, in order -> whether it is to begin. It waits while a job blocks the loop."""
        self._tasks: dict[asyncio.Task[None], ReceivedDelivery] = {}
        self._for_threads: set[Carried] = set()
        self._problem: str | None = None
        """Why the loop could not be started."""
        self._refused_until = 0.0
        self._stopping = False
        self._over = False

    def run(self, deliveries: Sequence[ReceivedDelivery]) -> None:
        """Run deliveries, which have slots."""
        with self._lock:
            self._handed.update(dict.fromkeys(deliveries, True))
        self._begin_what_was_handed()

    def look(self) -> None:
        """Begin what waits for the loop's thread, which the machine had refused."""
        if self._handed and self._loop is None and time.monotonic() >= self._refused_until:
            self._begin_what_was_handed()

    def _begin_what_was_handed(self) -> None:
        try:
            loop = self._loop or self._start()
        except RuntimeError as error:
            if self._problem is None:
                logger.error("the event loop of async jobs cannot be started (%s); trying again", error)
            self._problem = f"the event loop of async jobs cannot be started: {error}"
            self._refused_until = time.monotonic() + BROKEN_PAUSE_SECONDS
            return
        self._problem = None
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._begin_handed)

    def held(self) -> list[ReceivedDelivery]:
        """What the loop was given and has not begun."""
        return [received for received, wanted in list(self._handed.items()) if wanted]

    def remove(self, which: Callable[[ReceivedDelivery], bool]) -> list[ReceivedDelivery]:
        """Take out what is not to begin any more. It keeps its slot until the loop gets to it: a blocked loop runs
        nothing in its place."""
        removed: list[ReceivedDelivery] = []
        with self._lock:
            for received in self.held():
                if which(received) and received in self._handed:
                    self._handed[received] = False
                    removed.append(received)
        return removed

    def problem(self) -> str | None:
        """Why no async job can run; None: it can."""
        if self._problem is not None:
            return self._problem
        thread = self._thread
        if thread is None or self._over or self._stopping or thread.is_alive():
            return None
        return "the event loop of async jobs has died; restart this process"

    def ping(self, answer: Callable[[], None]) -> bool:
        """Let the loop call `answer` in its next turn; False: it does not run."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return False
        try:
            loop.call_soon_threadsafe(answer)
        except RuntimeError:  # closed meanwhile
            return False
        return True

    def in_turn(self) -> tuple[ReceivedDelivery | None, str, str]:
        """(the job whose task has the loop now, what that task runs, where the loop's thread stands).

        No job: a task or a callback that a job has started.
        """
        if self._loop is None or self._thread is None or self._thread.ident is None:
            return None, "", ""
        task = asyncio.current_task(self._loop)
        received = None if task is None else self._tasks.get(task)
        if received is None and task is not None:
            carried = [each.run for each in list(self._for_threads) if each.run.task is task]
            received = carried[0].received if carried else None
        coroutine = None if task is None else task.get_coro()
        frame = sys._current_frames().get(self._thread.ident)  # noqa: SLF001  # the only way to see it
        stack = "" if frame is None else "".join(traceback.format_stack(frame)[-MAX_FRAMES:])
        named = getattr(coroutine, "__qualname__", "a callback")
        return received, named if task is None else f"the task {named}", stack

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        """Run a coroutine for a sync job, in the context of the calling thread, which waits; its result.

        Raises:
            LoopStopped: the worker has stopped.
            BaseException: what the coroutine raised.
        """
        carried = Carried(coroutine, run)
        with self._lock:  # stop() takes it too: what is listed here is waited for
            stopping = self._stopping
            if not stopping:
                self._for_threads.add(carried)
        loop = None if stopping else self._loop or self._start()
        if loop is None:
            self._for_threads.discard(carried)
            coroutine.close()
            raise LoopStopped
        loop.call_soon_threadsafe(carried.begin, loop)
        try:
            return carried.wait()
        finally:
            self._for_threads.discard(carried)

    def run_here(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run a coroutine of the worker itself, while this thread waits, at most so many seconds; its result.

        Raises:
            LoopStopped: the worker has stopped.
            TimeoutError: it has not ended, as when a job blocks the loop.
            BaseException: what the coroutine raised.
        """

        async def carry() -> tuple[Any, BaseException | None]:
            try:
                return await coroutine, None
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
                return None, error

        loop = None if self._stopping else self._loop or self._start()
        if loop is None:
            coroutine.close()
            raise LoopStopped
        future = asyncio.run_coroutine_threadsafe(carry(), loop)
        try:
            value, error = future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise
        if error is not None:
            raise error
        return value

    def _start(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None and not self._stopping:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._run, args=(loop,), name="broker-jobs-loop", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            while not self._over:
                run_on(loop, lambda: self._over)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _begin_handed(self) -> None:
        while self._handed:
            with self._lock:
                received = next(iter(self._handed))
                wanted = self._handed.pop(received)
            if wanted:
                self._begin(received)
            else:
                self._end(received)

    def _begin(self, received: ReceivedDelivery) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._work(received))
        self._tasks[task] = received
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        received = self._tasks.pop(task)
        if task.cancelled():  # from outside, before its first step: the work catches what comes later
            self._begin(received)
            return
        if (error := task.exception()) is not None:
            logger.critical(
                "internal error at an async job; its delivery is not acknowledged and returns to the queue",
                exc_info=error,
            )
        self._end(received)

    def _end(self, received: ReceivedDelivery) -> None:
        following = self._ended(received)
        if following is not None:
            self._begin(following)

    def stop(self, timeout: float) -> bool:
        """End the loop when nothing runs on it; whether it has ended (seconds)."""
        with self._lock:
            self._stopping = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return True
        if thread.is_alive() and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop_when_idle)
        thread.join(timeout)
        return not thread.is_alive()

    def _stop_when_idle(self) -> None:
        assert self._loop is not None
        if self._tasks or self._handed or self._for_threads:
            self._loop.call_later(0.01, self._stop_when_idle)
        else:
            self._over = True
            self._loop.stop()


class Carried:
    """A coroutine that runs on an event loop while a thread waits for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> None:
        self._coroutine = coroutine
        self.run = run
        self._context = contextvars.copy_context()
        self._ended = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start it, on the loop."""
        task = loop.create_task(self._carry(), context=self._context)
        task.add_done_callback(self._done)
        self.run.set_task(task)

    def wait(self) -> Any:
        """Wait in the thread; what it returned, or raises what it raised."""
        self._ended.wait()
        try:
            if self._error is not None:
                raise self._error
            return self._value
        finally:
            self._error = None  # its traceback holds this frame: a cycle

    async def _carry(self) -> None:
        try:
            self._value = await self._coroutine
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
            self._error = error

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self._coroutine.close()
            self._error = asyncio.CancelledError()
        self.run.task = None
        self._ended.set()


def run_on(loop: asyncio.AbstractEventLoop, is_over: Callable[[], bool]) -> None:
    """Run a loop until it is stopped or something ends it; unless it is over, that was a job, which is logged.

    Raises:
        KeyboardInterrupt: in the main thread, where it is a person's Ctrl-C.
    """
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        logger.error(
            "%s was raised on the event loop of the jobs, by a task or a callback that a job started; "
            "the loop and its other jobs go on",
            type(error).__name__,
            exc_info=error,
        )
    except BaseException as error:
        logger.critical("the event loop of the jobs failed; it goes on", exc_info=error)
        time.sleep(BROKEN_PAUSE_SECONDS)
    else:
        if not is_over():
            logger.error(
                "a job stopped the event loop of all jobs (loop.stop()); the loop and its jobs go on. "
                "Remove that call: to end a job, return from it"
            )
