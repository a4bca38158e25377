"""Tables and spans of time as plain text."""

from __future__ import annotations

from collections.abc import Sequence

LEFT = frozenset({"queue", "id", "task", "state", "worker", "host", "queues", "error", "due", "last", ""})  # columns of words


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Words to the left, numbers to the right; no spaces at the ends of lines."""
    widths = [max(len(row[n]) for row in (columns, *rows)) for n in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column in LEFT else cell.rjust(width) for cell, width, column in zip(row, widths, columns, strict=True)
        )
        return "  ".join(cells).rstrip()

    return [line(columns), *map(line, rows)]


def harmless(text: str) -> str:
    r"""What would steer a terminal, or turn the direction of writing, is shown as `\\u001b`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def span(ms: float | None) -> str:
    """How long, in the unit that a person would choose."""
    if ms is None:
        return "-"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms / 1000:.1f} s" if ms >= 1_000 else f"{ms:.0f} ms"


def number(value: float | None) -> str:
    """A rate: three digits are enough."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def clipped(text: str, most: int) -> str:
    """One line of so many characters at most, without what would steer a terminal."""
    text = harmless(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"
