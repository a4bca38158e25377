"""A lane is one queue at one priority, as one number: qid * 10 + 9 - priority. Queues are numbered when they are first used.

The numbers never change, so what this process has learnt of them stays true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sqlite3 import Cursor

from culm.stores.sqlite.sql import SQL

Execute = Callable[..., Cursor]


class Lanes:
    def __init__(self) -> None:
        self._qids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._lanes: dict[tuple[str, int], int] = {}

    def lane(self, execute: Execute, queue: str, priority: int) -> int:
        """The lane; its queue is made if it is new."""
        lane = self._lanes.get((queue, priority))
        if lane is None:
            if queue not in self._qids:
                execute(SQL["new_queue"], (queue,))
                self._learn(queue, execute(SQL["queue"], (queue,)).fetchone()[0])
            lane = self._lanes[queue, priority] = self._qids[queue] * 10 + 9 - priority
        return lane

    def knows(self, queue: str) -> bool:
        """Its lanes need no question."""
        return queue in self._qids

    def queue_of(self, execute: Execute, lane: int) -> str:
        if lane // 10 not in self._names:
            for qid, name in execute(SQL["queue_names"]).fetchall():
                self._learn(name, qid)
        return self._names.get(lane // 10, "")

    def qids(self, execute: Execute, queues: Sequence[str]) -> list[int]:
        """The numbers of those queues that exist."""
        for queue in queues:
            if queue not in self._qids:
                found = execute(SQL["queue"], (queue,)).fetchone()
                if found is not None:
                    self._learn(queue, found[0])
        return [self._qids[q] for q in dict.fromkeys(queues) if q in self._qids]

    def _learn(self, queue: str, qid: int) -> None:
        self._qids[queue] = qid
        self._names[qid] = queue

    def forget(self) -> None:
        """After a rollback: a queue that was made in it was not."""
        self._qids.clear()
        self._names.clear()
        self._lanes.clear()


def of_queues(qids: Sequence[int]) -> list[int]:
    """All lanes of some queues, the highest priority first."""
    return [qid * 10 + n for n in range(10) for qid in qids]
