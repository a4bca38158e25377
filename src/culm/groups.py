"""Groups of callers: is a batch from all who send again and again, or from one of two groups that take turns?

A group is known by the caller who began its batch. No more than a hint: whoever asks with a new task each time is never recognized.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, TypeAlias
from weakref import ref

LATE = 4  # batches that are remembered

Caller: TypeAlias = "ref[asyncio.Task[Any]]"  # equal while the task lives, and then to itself


def caller() -> Caller | None:
    """Whose code runs; None: no task's."""
    loop = asyncio._get_running_loop()  # noqa: SLF001  # documented for libraries; the public call raises where there is none
    task = None if loop is None else asyncio.current_task(loop)
    return None if task is None else ref(task)


class Groups:
    """Who began the last batches."""

    def __init__(self) -> None:
        self._late: deque[Caller | None] = deque(maxlen=LATE)  # None: the second half of a batch, until its group sends again

    def sends(self, first: Caller | None) -> None:
        """A batch goes that this one began."""
        self._late.append(first)

    def takes_turns(self, first: Caller | None) -> bool:
        """The group that begins with this one has sent of late, and another after it."""
        late = self._late
        if not late or late[-1] == first:
            return False
        if first in late:
            return True
        if None not in late:
            return False
        late[late.index(None)] = first
        return True
