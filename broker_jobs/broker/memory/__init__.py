"""The exchange inside this process, volatile: for development, tests and small programs.

kombu's memory transport carries the bytes from publish to delivery (`pipe.py`, the only file that knows it). What a
broker owes beyond that is added around it: acknowledgements, messages that come back (to the front, flagged, counted),
prefetch, one active consumer, delivery limits with dead letters, alternate exchanges, confirms that come later and can
fail, alarms and lost connections.

Queues with a TTL (the delay delay queues) take messages and drop them: the copy in the log is what counts, since the
coordinator's row decides when a delayed job is due and its timer releases it.

`memory://` is a broker of its own for each exchange; `memory://name` is shared by all exchanges of that name in this
process, from the first start to the last stop.
"""

from broker_jobs.broker.memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
