"""What users need in their tests, and ours use: `with Tester(jobs) as tester:`."""

from broker_jobs.testing.tester import Tester

__all__ = ["Tester"]
