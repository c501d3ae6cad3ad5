"""Runs a function in a broker's I/O thread, where callbacks run, to see which calls are refused there."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from broker_jobs.broker.interface import Broker, Message


def in_the_io_thread(broker: Broker, message: Message, call: Callable[[], object]) -> object:
    """Publish `message` until its future calls back in the broker's thread, and there call once; return its result.

    A future that has ended before the callback is added runs it at once, in the thread that adds it.
    """
    asking = threading.current_thread()
    outcome: Future[object] = Future()
    elsewhere = threading.Event()

    def called_back(_: object) -> None:
        if threading.current_thread() is asking:
            return
        elsewhere.set()
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  # the test says which it expects
            outcome.set_exception(error)

    while not elsewhere.is_set():
        published = broker.publish([message])
        published.add_done_callback(called_back)
        published.result(60)
    return outcome.result(60)
