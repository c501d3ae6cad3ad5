"""Reads the list of subscribers from a CSV file, and reports each unusable row with its line and the reason.

A wrong row is skipped. A wrong file (missing, empty, without a header) is an error.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from broker_jobs.errors import UsageError

SAMPLE = Path(__file__).parent / "subscribers.csv"

_ADDRESS = re.compile(r"[^\s@\"(),:;<>\[\]\\\x00-\x1f\x7f]+@(?!-)[\w-]+(?:\.[\w-]+)*\.[\w-]{2,}")
_MOST_CHARS = 254
_YES = {"yes", "y", "true", "1", "x"}


@dataclass(frozen=True)
class Subscriber:
    """A person who gets mail; `digest`: also the recurring one."""

    name: str
    email: str
    digest: bool


@dataclass(frozen=True)
class BadRow:
    """A row that is skipped: the line on which it begins, and the reason."""

    line: int
    reason: str


@dataclass(frozen=True)
class SubscriberList:
    """All subscribers of a file, and the skipped rows."""

    subscribers: tuple[Subscriber, ...]
    bad: tuple[BadRow, ...]

    @property
    def digest_readers(self) -> tuple[str, ...]:
        """The addresses that want the digest."""
        return tuple(each.email for each in self.subscribers if each.digest)


def read_subscribers(path: Path) -> SubscriberList:
    """The subscribers of a CSV file: UTF-8, a header with `email`, and `name` and `digest` if wanted.

    The digest goes to rows that say yes there; without such a column to all.

    Raises:
        UsageError: the file cannot be read, has no such header, or has no usable row.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path} is UTF-16; save it as UTF-8")
    # Bytes that are not UTF-8 become surrogates, so that only their row is skipped. Spreadsheets write a BOM first.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    subscriber_list = parse(text, str(path))
    if not subscriber_list.subscribers:
        first = f"; line {subscriber_list.bad[0].line}: {subscriber_list.bad[0].reason}" if subscriber_list.bad else ""
        raise UsageError(f"{path} has a header and no usable row{first}")
    return subscriber_list


def parse(text: str, title: str = "the list") -> SubscriberList:
    """Parse a CSV text, in which bytes that were not UTF-8 are surrogates.

    Raises:
        UsageError: it is empty or its first row is no header.
    """
    if not text.strip():
        raise UsageError(f"{title} is empty; its first line must be a header: name,email,digest")
    first = text.lstrip().partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",")
    header: list[str] = []
    subscribers: list[Subscriber] = []
    bad: list[BadRow] = []
    seen: dict[str, int] = {}
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            bad.append(BadRow(line, f"no CSV: {error}"))
            continue
        if row is None:
            return SubscriberList(tuple(subscribers), tuple(bad))
        if not any(cell.strip() for cell in row):
            continue
        if not header:
            header = _header(row, title)
            continue
        found = _subscriber(row, header)
        if isinstance(found, Subscriber) and found.email.lower() in seen:
            found = f"{found.email} is on line {seen[found.email.lower()]} already"
        if isinstance(found, str):
            bad.append(BadRow(line, found))
        else:
            seen[found.email.lower()] = line
            subscribers.append(found)


def _header(row: list[str], title: str) -> list[str]:
    header = [cell.strip().lower() for cell in row]
    if "email" not in header:
        raise UsageError(f"{title} has no header: its first line must name the columns, one of them email")
    for name in header:
        if name and header.count(name) > 1:
            raise UsageError(f"{title}: the header names {name!r} twice")
    return header


def domain_of(email: str) -> str:
    """The domain of an e-mail address, in lower case."""
    return email.rpartition("@")[2].lower()


def _subscriber(row: list[str], header: list[str]) -> Subscriber | str:
    """The subscriber in a row, or the reason why there is none."""
    if any("\ud800" <= char <= "\udfff" for cell in row for char in cell):
        return "not UTF-8"
    if len(row) != len(header):
        return f"{len(row)} column{'' if len(row) == 1 else 's'}, the header has {len(header)}"
    cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
    email = cells["email"]
    if not email:
        return "no address"
    if _ADDRESS.fullmatch(email) is None or len(email) > _MOST_CHARS:
        return f"{email[:60]!r} is not an e-mail address"
    name = " ".join(cells.get("name", "").split()) or email.partition("@")[0]
    return Subscriber(name, email, cells.get("digest", "yes").lower() in _YES)
