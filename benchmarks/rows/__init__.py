"""The measurements: one file for one or two rows of the table."""

from benchmarks.rows.coordinator import coordinator as coordinator
from benchmarks.rows.coordinator import recurring as recurring
from benchmarks.rows.delay import delay as delay
from benchmarks.rows.idle import latency as latency
from benchmarks.rows.imports import imports as imports
from benchmarks.rows.kinds import kinds as kinds
from benchmarks.rows.lines import lines as lines
from benchmarks.rows.memory import memory as memory
from benchmarks.rows.pages import pages as pages
from benchmarks.rows.publish import publish_many as publish_many
from benchmarks.rows.publish import publish_one as publish_one
from benchmarks.rows.run import run as run
from benchmarks.rows.store import store as store
from benchmarks.rows.waiting import waiting as waiting
from benchmarks.rows.whole import whole as whole

ROWS = {
    "publish-one": publish_one,
    "publish-many": publish_many,
    "run": run,
    "whole": whole,
    "latency": latency,
    "delay": delay,
    "import": imports,
    "memory": memory,
    "store": store,
    "pages": pages,
    "waiting": waiting,
    "kinds": kinds,
    "coordinator": coordinator,
    "lines": lines,
    "recurring": recurring,
}
