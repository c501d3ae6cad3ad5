"""Formats instants, durations, sizes and numbers for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def exact(at: datetime) -> str:
    """An instant in UTC to the second: the tooltip of a relative time."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: datetime) -> str:
    """An instant for the datetime attribute of a <time>."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def relative(at: datetime, now: datetime) -> str:
    """The distance of an instant from now: "3 min ago", "in 2 h", "just now"."""
    seconds = (at - now).total_seconds()
    if abs(seconds) < 1:
        return "just now" if seconds <= 0 else "now"
    text = rough_duration(abs(seconds))
    return f"in {text}" if seconds > 0 else f"{text} ago"


def rough_duration(seconds: float) -> str:
    """A duration in its largest unit: "45 s", "3 min", "2 h", "5 d"."""
    for size, unit, below in ((1.0, "s", MINUTE), (MINUTE, "min", HOUR), (HOUR, "h", 2 * DAY)):
        if seconds < below:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds / DAY)} d"


def duration(seconds: float | None) -> str:
    """A duration to three digits: "12 ms", "1.24 s", "3 min 4 s", "2 h 5 min", "1 d 3 h"; None: a dash."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 0:
        return f"\N{MINUS SIGN}{duration(-seconds)}"
    if seconds < 0.0005:
        return "0 ms" if seconds == 0 else "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < MINUTE:
        return f"{seconds:.1f} s" if seconds < 59.95 else "1 min"
    whole = round(seconds)
    for size, unit, part_size, part in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min"), (MINUTE, "min", 1, "s")):
        if whole >= size:
            rest = int(whole % size / part_size)
            return f"{int(whole / size)} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def size(count: float) -> str:
    """A number of bytes: "512 B", "1.5 KiB", "12 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def number(count: float) -> str:
    """A number with thin spaces between the thousands."""
    return f"{count:,.0f}".replace(",", "\u202f")


def short_number(count: int) -> str:
    """A number for a badge, at most five characters: "950", "12k", "3.4M"."""
    if count < 10_000:
        return str(count)
    if count < 1_000_000:
        return f"{count // 1000}k"
    return f"{count / 1e6:.1f}M" if count < 100_000_000 else f"{count // 1_000_000}M"
