"""What the tests start and wait for: private servers, a proxy that misbehaves, a wait with a deadline.

Nothing here needs pytest, so that the benchmarks can use it too; the fixtures are in tests/conftest.py.
"""
