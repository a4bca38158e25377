"""Who killed a worker process? Whoever ran in it is suspect, and runs again alone; a death while it ran alone is a strike.

Alone means: in a process apart, and as the first that ever ran there. What ran there before may have left a thread that goes on, or memory
behind, and so may whatever a usual process has done: such a death is nobody's strike. Who dies so goes to the end, and is the first in a
process sooner or later: each such death follows the end of another suspect.

What had not begun is given back at once, since its lease is known. After three strikes a job is lost, with the reason; a job that
only stood by is never lost. Pure: the supervisor asks here, and passes the orders on.
"""

from __future__ import annotations

from collections.abc import Sequence

from culm.commit import Held
from culm.worker.board import Seen
from culm.worker.orders import Order

STRIKES = 3


class Suspects:
    """What died with whom.

    Attributes:
        waiting: who is to run alone next, the oldest suspicion first.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, Held] = {}  # by job id
        self._strikes: dict[str, int] = {}

    def died(self, seen: Seen, how: str, *, apart: bool) -> Order:
        """A process died that held these. Returns what any living one is to do; `waiting` is for those that run jobs apart."""
        alone = apart and seen.first and len(seen.running) == 1
        lost: list[tuple[Held, str]] = []
        if apart:  # the others there were suspects, and still are
            self._still(seen.claimed)
        for held in seen.running:
            self.waiting.pop(held.job_id, None)  # it goes to the end: others may be innocent
            strikes = self._strikes.pop(held.job_id, 0) + (1 if alone else 0)
            if strikes >= STRIKES:
                lost.append((held, f"its worker process died {strikes} times while it ran there alone: {how}"))
            else:
                self.waiting[held.job_id] = held
                if strikes:
                    self._strikes[held.job_id] = strikes
        heard = any(held.lease == seen.claiming for held in (*seen.running, *seen.claimed))
        return Order(
            give_back=[] if apart else seen.claimed,
            claiming="" if heard else seen.claiming,
            lost=lost,
            suspects=0 if apart else len(seen.running),
        )

    def not_taken(self, order: Order) -> None:
        """A process died before it took up the order to run these."""
        self._still(order.run)

    def _still(self, suspects: Sequence[Held]) -> None:
        """Some may have ended, and have become suspect anew under another lease: that one counts."""
        for held in suspects:
            self.waiting.setdefault(held.job_id, held)

    def take(self, parts: int) -> list[Order]:
        """Who runs alone now, in so many processes at most."""
        waiting, self.waiting = list(self.waiting.values()), {}
        return [Order(run=part) for n in range(parts) if (part := waiting[n::parts])]

    def cleared(self) -> None:
        """All that ran apart have ended."""
        if not self.waiting:
            self._strikes.clear()
