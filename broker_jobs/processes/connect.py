"""Waits for RabbitMQ when a process starts, so that services may start in any order.

While RabbitMQ is unreachable the start is repeated, with a log line each time. An error that waiting does not fix (a
wrong password, an unknown virtual host, a queue with other arguments) ends the process at once with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from broker_jobs.errors import BrokerError, BrokerRefused

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0


def wait_for_broker(start: Callable[[], None], undo: Callable[[], None], wait: Callable[[float], bool]) -> bool:
    """Call `start` until it succeeds, without a time limit.

    Args:
        start: connects, and starts what needs the connection.
        undo: cleans up after a failed start.
        wait: waits that many seconds; returns True as soon as the process is to stop.

    Returns:
        Whether it started; False: the process was to stop before.

    Raises:
        BrokerRefused: RabbitMQ answered, and refused.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            start()
        except BrokerRefused:
            undo()
            raise
        except BrokerError as error:
            undo()
            logger.warning("%s; trying again in %.0f s", error, pause)
            if wait(pause):
                return False
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            return True
