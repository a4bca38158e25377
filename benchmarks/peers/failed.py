"""A peer that could not be measured: its row says why, and the run goes on."""

from __future__ import annotations

from pathlib import Path

SHOWN = 500  # characters of a log's end


class Failed(Exception):
    """What did not work, and the end of what was printed meanwhile."""

    def __init__(self, what: str, *, printed: str = "") -> None:
        end = " ".join(printed[-SHOWN:].split())
        super().__init__(f"{what}: ... {end}" if end else what)


def tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-SHOWN:] if log.exists() else ""
