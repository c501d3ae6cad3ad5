"""Readings of different clocks: each line that ends with E is an error to a type checker, no other is."""

from broker_jobs.clock import LogTime, RemoteTime, WallTime, is_newer, is_since

wall, log, remote = WallTime(1.0), LogTime(1.0), RemoteTime(1.0)

seconds: float = wall - WallTime(0.5)
later: WallTime = wall + seconds
earlier: WallTime = later - 3.0
passed: float = log - LogTime(0.5)
both: bool = wall < later and log >= LogTime(0.5) and is_newer(remote, RemoteTime(0.5)) and is_since(remote, remote)
latest: WallTime = max(wall, later)
shown: float = float(remote)

print(wall < log)  # E
print(wall >= remote)  # E
print(remote < wall)  # E
print(log > remote)  # E
print(remote < RemoteTime(2.0))  # E
print(wall - log)  # E
print(wall - remote)  # E
print(remote - remote)  # E
print(log + wall)  # E
print(is_newer(wall, remote))  # E
print(is_since(remote, log))  # E
print(wall < 1.0)  # E
not_log: LogTime = wall  # E
not_wall: WallTime = remote  # E
number: float = log  # E
from_number: WallTime = 1.0  # E
