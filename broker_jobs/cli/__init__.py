"""The command line: what a person at a terminal, a service manager or a script says to broker_jobs.

The only room of typer and rich. Here commands are gathered, and our errors become one red line.
"""

from __future__ import annotations

from broker_jobs.cli.commands import main as main
