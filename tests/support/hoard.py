"""Lets workers take deliveries that they cannot start, and keep them, for tests of what becomes of these."""

from collections.abc import Callable

from broker_jobs.consumer import flow_control, windows


def let_workers_take_more(set_attribute: Callable[[object, str, object], None] = setattr) -> None:
    """Let the workers of this process start with twice their slots, and wait for ten minutes instead of a second."""

    def first_prefetch(concurrency: int, maximum: int, *, several: bool = False) -> int:
        del several
        return min(2 * concurrency, maximum)

    set_attribute(windows, "first_prefetch", first_prefetch)
    set_attribute(flow_control, "MAX_WAIT_SECONDS", 600.0)
    set_attribute(flow_control, "MAX_MOVING_WAIT_SECONDS", 600.0)
