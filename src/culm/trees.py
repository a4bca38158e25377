"""Cancel a job and all that it started, and what these start meanwhile: until nothing of the scope is left that was not asked to stop.

The root and those that run come first, since they start others; while new ones are found there is no pause. Who is asked is open, and ends
at once, or runs, and ends within moments: what grows then grows for want of nobody who listens, and that is said after a while.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from culm.commit import Commit
from culm.errors import TreeGrows
from culm.job import scope_of
from culm.store import JobView

if TYPE_CHECKING:
    from culm.app import App

PAGE = 1_000
PAUSE_S = 0.1  # between two looks: whoever runs may be about to start more
PATIENCE_S = 10.0  # with those that run and do not listen, after the last that was found
GROWTH_S = 60.0  # so long new ones are looked for


async def cancel_tree(app: App, root: str) -> set[str]:
    """The ids of those that were asked to stop. Raises ValueError: not a root. TreeGrows, StoreError, StoreUnavailable."""
    if scope_of(root) != root:
        raise ValueError(f"job {root} is part of the tree of {scope_of(root)}, and only a whole tree can be cancelled; say that id")
    asked: set[str] = set()
    now = asyncio.get_running_loop().time
    grows_until, ends_at = now() + GROWTH_S, now() + PATIENCE_S
    while True:
        left = await _unfinished(app, root)
        new = [view.id for view in left if view.id not in asked]
        for start in range(0, len(new), PAGE):
            await app.gatherer().submit(Commit(cancel=tuple(new[start : start + PAGE])))
        if new:
            asked.update(new)
            await app.tell_cancelled(new)
            if now() > grows_until:
                raise TreeGrows(root, sorted(asked), [view.id for view in left])
            ends_at = now() + PATIENCE_S
        elif not left or now() > min(ends_at, grows_until):
            return asked
        await asyncio.sleep(0 if new else PAUSE_S)


async def _unfinished(app: App, root: str) -> list[JobView]:
    found: list[JobView] = []
    after = ""
    while page := await app.store.jobs(scope=root, after=after, limit=PAGE):
        found += [view for view in page if view.state in ("open", "leased")]
        after = page[-1].id
        if len(page) < PAGE:
            break
    return sorted(found, key=lambda view: (view.id != root, view.state != "leased"))
