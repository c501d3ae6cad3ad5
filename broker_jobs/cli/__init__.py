"""The command line `broker-jobs`; its entry point works without the extra `cli` and names what is missing.

One file per group of commands; commands.py puts them together and prints errors as one line. typer and rich are
imported in this package only (rich in the demo too).
"""

from __future__ import annotations

import sys

from broker_jobs.errors import MissingExtra
from broker_jobs.extras import require


def main() -> None:
    """Run the command line. The script is installed with the base package too; there it says what to install."""
    try:
        require("the command line", "cli")
    except MissingExtra as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    # Imported here, as its libraries may be missing until the check above.
    from broker_jobs.cli.commands import main as command_line  # noqa: PLC0415

    command_line()
