"""Shows the progress of the demo (bars in a terminal, plain lines elsewhere) and the final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from broker_jobs.demo.check import ResultLine

PLAIN_SECONDS = 1.0
"""Between two plain lines."""


class Screen:
    """The output of the demo. Used by one thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown: tuple[str, ...] = ()
        self._shown_at = -PLAIN_SECONDS

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description:<10}"),
                BarColumn(32),
                MofNCompleteColumn(),
                TextColumn("{task.fields[more]}"),
            )
            self._bars = Progress(*columns, console=self._console)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def print_line(self, text: str) -> None:
        """Print a line, above the bars."""
        self._console.print(text, markup=False)

    def draw(
        self, seconds: float, arrived: Mapping[str, int], requested: Mapping[str, int | None], more: str = ""
    ) -> None:
        """Show delivered of requested mails (None: not known yet), `seconds` after the start."""
        if self._bars is not None:
            for kind, count in arrived.items():
                if kind not in self._tasks:
                    self._tasks[kind] = self._bars.add_task(kind, total=None, more="")
                self._bars.update(self._tasks[kind], completed=count, total=requested[kind], more="")
            return
        parts = tuple(
            f"{kind} {count}" + (f" of {requested[kind]}" if requested[kind] is not None else "")
            for kind, count in arrived.items()
        )
        if parts != self._shown and seconds >= self._shown_at + PLAIN_SECONDS:
            self._shown, self._shown_at = parts, seconds
            self.print_line(f"{seconds:5.1f} s  delivered: {', '.join(parts)}{more}")

    def table(self, lines: Sequence[ResultLine], sent_by: Mapping[str, str]) -> None:
        """Print requested, delivered and retried mails, and the kind of job that sent them."""
        table = Table(box=box.SIMPLE_HEAD, title=None)
        table.add_column("mail")
        for name in ("requested", "delivered", "retried"):
            table.add_column(name, justify="right")
        table.add_column("kind of job", style="dim")
        for line in lines:
            numbers = (str(line.requested), str(line.delivered), str(line.retried))
            table.add_row(line.kind, *numbers, sent_by.get(line.kind, ""))
        self._console.print(table)
