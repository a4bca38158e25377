"""A store, what a test puts into it by hand, and `culm` over it in this process: what is looked at here needs no worker."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Awaitable, Callable
from typing import TypeVar

from culm.cli.main import main
from culm.commit import Commit, Held
from culm.job import Delivery, Job
from culm.outcome import Failed, Fault, Outcome
from culm.store import FullStore, Load, WorkerInfo
from culm.stores.open import open_store
from tests.cli.shell import Done

T = TypeVar("T")

ALIVE = WorkerInfo(
    "w1", "host", 7, ("default", "mail"), ("t", "u"), 4, 2, 99, 1_700_000_000_000, 10_000,
    (Load("default", 2, 60_000, 120, 30_000, 10, 400), Load("mail", 0, 60_000)), (("held", 90_000),),
)  # fmt: skip


class Desk:
    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = 0

    def culm(self, *arguments: str) -> Done:
        """Run a command on this store."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments, "--url", self.url])
        return Done(code, out.getvalue(), err.getvalue())

    def do(self, work: Callable[[FullStore], Awaitable[T]]) -> T:
        async def run() -> T:
            store = open_store(self.url)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def commit(self, *commits: Commit) -> None:
        self._numbers += 1
        assert set(self.do(lambda store: store.commit(commits, batch=("desk", self._numbers)))) == {"applied"}

    def send(self, *jobs: Job) -> None:
        self.commit(Commit(send=jobs))

    def claim(self, *, queue: str = "default", limit: int = 1_000, worker: str = "w1", for_ms: int = 600_000) -> list[Delivery]:
        self._numbers += 1
        lease = f"{worker}/{self._numbers}"
        claimed = self.do(lambda store: store.claim([queue], lease=lease, limit=limit, for_ms=for_ms))
        return list(claimed.deliveries)

    def end(self, outcome: Outcome, *deliveries: Delivery) -> None:
        self.commit(*(Commit(fence=Held(d.job.id, d.lease), outcome=outcome) for d in deliveries))

    def die(self, *jobs: Job, outcome: Outcome | None = None) -> None:
        """Send them and let each fail; the queue must hold nothing else that is due."""
        self.send(*jobs)
        for queue in {job.queue for job in jobs}:
            if found := self.claim(queue=queue):
                self.end(outcome or Failed(Fault("ValueError", "no way", "Traceback: no way")), *found)

    def show(self, *workers: WorkerInfo) -> None:
        """Let these be alive."""
        for worker in workers:
            self.do(lambda store, worker=worker: store.register(worker, for_ms=600_000))  # type: ignore[misc]  # bound at once

    def states(self, *ids: str) -> list[str]:
        async def work(store: FullStore) -> list[str]:
            views = [await store.job(i) for i in ids]
            return ["absent" if view is None else view.state for view in views]

        return self.do(work)
