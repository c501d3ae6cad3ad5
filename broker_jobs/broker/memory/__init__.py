"""The broker in the memory of this process, volatile: for development, tests and small programs.

kombu's memory transport stores the messages of the queues (`transport.py`, the only file that uses kombu). The rest
is added around it: acknowledgements, returned messages (to the front, flagged and counted), prefetch, single
active consumers, delivery limits with dead letters, alternate exchanges, confirms that can fail, alarms and lost
connections.

Delay queues accept messages and drop them. The copy in the log is what counts: the coordinator's row has the due time,
and its timer releases the job.

`memory://` is a new broker for each `MemoryBroker`. `memory://name` is shared by all of that name in this process, from
the first start to the last stop.
"""

from broker_jobs.broker.memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
