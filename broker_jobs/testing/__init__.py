"""What users need in their tests, and ours use: `with Tester(jobs) as tester:`."""

from broker_jobs.extras import require

require("broker_jobs.testing", "testing")

from broker_jobs.testing.tester import Tester  # noqa: E402  # its libraries may be missing until here

__all__ = ["Tester"]
