"""Waits for RabbitMQ at the start of a process, as it is often started later than we are.

Unreachable is waited for, with a line every try, so that nobody has to order the start of services. What waiting does
not mend (a wrong password, no such vhost, a queue of another shape) ends the process at once with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from broker_jobs.errors import BrokerError, BrokerRefused

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0


def wait_for_broker(start: Callable[[], None], undo: Callable[[], None], leave: Callable[[float], bool]) -> bool:
    """Call `start` until it succeeds, however long RabbitMQ takes to come.

    Args:
        start: connects and starts what needs the connection.
        undo: puts back what a failed start has left.
        leave: waits that many seconds; True as soon as the process has been asked to leave.

    Returns:
        Whether it is started; False: asked to leave first.

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
            if leave(pause):
                return False
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        else:
            return True
