"""Tests jobs without a broker: `with Tester(jobs) as tester:`."""

from broker_jobs.extras import require

require("broker_jobs.testing", "testing")

from broker_jobs.testing.tester import Tester  # noqa: E402  # its libraries are checked first

__all__ = ["Tester"]
