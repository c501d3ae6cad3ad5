"""An event loop for jobs where no worker's loop runs: in a child process, and in a Tester.

It is made when it is first needed. It stands still between two coroutines: what one of them has left on it, such as a
hook that stands at its yield, goes on with the next one.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

from broker_jobs.consumer.event_loop import run_on


class OwnLoop:
    """An event loop that one caller uses, from one thread at a time. A context manager: it is closed at the end."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, whatever its sub-tasks raise; its result. The caller may be in a running loop."""
        return _outside_loops(lambda: self._run(coroutine))

    def close(self) -> None:
        """Cancel the tasks that are left, and close the loop. The next coroutine gets a new one."""
        runner, self._runner = self._runner, None
        if runner is not None:
            _outside_loops(runner.close)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def carry() -> tuple[Any, BaseException | None]:
            try:
                return await coroutine, None
            except BaseException as error:  # noqa: BLE001  # raised again outside the loop, which it must not end
                return None, error

        if self._runner is None:
            self._runner = asyncio.Runner()
        loop = self._runner.get_loop()
        task = loop.create_task(carry())
        task.add_done_callback(lambda _: loop.stop())
        try:
            while not task.done():
                run_on(loop, task.done)
        except KeyboardInterrupt:
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
            raise
        value, error = task.result()
        if error is not None:
            raise error
        return value


def _outside_loops(call: Callable[[], Any]) -> Any:
    """Call it here or, as a loop cannot run inside another one, in a thread that this one waits for."""
    if not _in_a_loop():
        return call()
    answer: list[Any] = []
    failure: list[BaseException] = []

    def carry() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(carry,), name="broker-jobs own loop")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return answer[0]


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
