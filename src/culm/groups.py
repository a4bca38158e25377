"""Groups of callers: is a batch from all who send again and again, or from one of two groups that take turns?

A group is known by the caller who began its batch. No more than a hint: whoever asks with a new task each time is never recognized.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import Any, Final, Literal, TypeAlias
from weakref import ref

LATE = 4  # batches that are remembered


class _Half(Enum):
    OTHER = "other"


OTHER_HALF: Final = _Half.OTHER  # whoever began the second half of a batch, until that group sends again
Caller: TypeAlias = "ref[asyncio.Task[Any]] | Literal[_Half.OTHER] | None"  # None: nobody who could be told from others


def caller() -> Caller:
    """Whose code runs."""
    loop = asyncio._get_running_loop()  # noqa: SLF001  # documented for libraries; the public call raises where there is none
    task = None if loop is None else asyncio.current_task(loop)
    try:
        return None if task is None else ref(task)
    except TypeError:  # not asyncio's own
        return None


class Groups:
    """Who began the last batches."""

    def __init__(self) -> None:
        self._late: deque[Caller] = deque(maxlen=LATE)

    def sends(self, first: Caller) -> None:
        """A batch goes that this one began."""
        self._late.append(first)

    def takes_turns(self, first: Caller) -> bool:
        """The group that begins with this one has sent of late, and another after it."""
        late = self._late
        if not late or late[-1] == first:
            return False
        if first in late:
            return True
        if OTHER_HALF not in late:
            return False
        late[late.index(OTHER_HALF)] = first
        return True
