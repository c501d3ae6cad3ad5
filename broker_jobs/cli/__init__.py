"""The command line: what a person at a terminal, a service manager or a script says to broker_jobs.

The only room of typer and rich. commands.py gathers the commands, and turns our errors into one red line.
"""

from __future__ import annotations

import sys

from broker_jobs.errors import MissingExtra
from broker_jobs.extras import require


def main() -> None:
    """The script `broker-jobs`: it is there with the base package too, where it says how to install the rest."""
    try:
        require("the command line", "cli")
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    # Its libraries may be missing until here.
    from broker_jobs.cli.commands import main as command_line  # noqa: PLC0415

    command_line()
