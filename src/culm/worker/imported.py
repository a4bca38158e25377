"""Which files of the user's own code a worker process has imported: what a reloader looks after. Told through a file that it reads."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Self, TypeAlias

IMPORTED = "CULM_IMPORTED"  # environment: the file to which each worker process appends what it imported
NOT_OURS = frozenset({"site-packages", "dist-packages", "node_modules", "__pycache__"})

Stamp: TypeAlias = tuple[int, int]  # of a file: when it was changed, in ns, and its size; (0, 0): it is not there


class Imported:
    """Args:
    told: the reloader's file; None: nobody asks.
    """

    def __init__(self, told: Path | None) -> None:
        self._told = told
        self._here = Path.cwd()
        self._known: set[str] = set()
        self._seen = 0

    @classmethod
    def asked_for(cls) -> Self:
        """By the environment; the variable is taken out of it: what a task starts is not the reloader's."""
        path = os.environ.pop(IMPORTED, "")
        return cls(Path(path) if path else None)

    def report(self) -> None:
        """Tell what was imported since the last call."""
        if self._told is None or len(sys.modules) == self._seen:
            return
        self._seen = len(sys.modules)
        files = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        new = [file for file in sorted(files - self._known) if is_ours(Path(file), self._here)]
        self._known |= files
        if new:
            with (
                contextlib.suppress(OSError),
                self._told.open("a", encoding="utf-8", errors="surrogateescape") as told,
            ):  # one write: others append, too
                told.write("".join("{} {} {}\n".format(*stamp(file), file) for file in new))


def read(told: Path) -> dict[str, Stamp]:
    """What they imported, and as of when."""
    found: dict[str, Stamp] = {}
    whole = told.read_text(encoding="utf-8", errors="surrogateescape").rpartition("\n")[0]  # the last line may be under way
    for line in whole.split("\n"):
        with contextlib.suppress(ValueError):  # of a file with a line end in its name
            changed, size, file = line.split(" ", 2)
            found.setdefault(file, (int(changed), int(size)))
    return found


def stamp(file: str) -> Stamp:
    try:
        seen = os.stat(file)
    except OSError:
        return 0, 0
    return seen.st_mtime_ns, seen.st_size


def is_ours(file: Path, here: Path) -> bool:
    """It lies below the working directory, and was not installed there."""
    try:
        folders = file.absolute().relative_to(here).parts[:-1]
    except ValueError:
        return False
    return not any(name in NOT_OURS or name.startswith(".") for name in folders)
