"""A store under test, on a clock that stands still, and the words in which the exercises speak to it.

`expect` and not `assert`: the suite also bites under `python -O`, and says what it saw without a test runner's help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from culm.commit import Commit, Committed, Event, Held, Record, Trigger
from culm.job import DEFAULT_KEEP_MS, Delivery, Job
from culm.outcome import Final, Outcome
from culm.store import Absent, ClaimOrder, Ended, FullStore, JobView, Pending

LEASE_MS = 30_000
T = TypeVar("T")


class Broken(AssertionError):
    """The store did not do what the exercise expects."""


def expect(got: T, wanted: T, why: str = "") -> None:
    if got != wanted:
        raise Broken(f"{why or 'unexpected'}:\n  got    {got!r}\n  wanted {wanted!r}")


class TestClock(Protocol):
    def now_ms(self) -> int: ...

    def advance(self, *, ms: int) -> None: ...


class Bench:
    def __init__(self, store: FullStore, clock: TestClock) -> None:
        self.store = store
        self.clock = clock
        self._batches = 0
        self._leases = 0

    # -- asking -------------------------------------------------------------------------------------------------------------

    async def batch(self, *commits: Commit) -> list[Committed]:
        """Commit them together, under a new batch number."""
        self._batches += 1
        return await self.store.commit(commits, batch=("bench", self._batches))

    async def commit(self, commit: Commit) -> Committed:
        return (await self.batch(commit))[0]

    async def send(self, *jobs: Job) -> None:
        """Send each in a commit of its own; all must be accepted."""
        expect(await self.batch(*(Commit(send=(job,)) for job in jobs)), ["applied"] * len(jobs), "sends")

    async def do(
        self,
        *,
        send: Sequence[Job] = (),
        emit: Sequence[Event] = (),
        triggers: Sequence[Trigger] = (),
        records: Sequence[Record] = (),
        cancel: Sequence[str] = (),
    ) -> None:
        """Commit this without a fence; it must be applied."""
        c = Commit(send=tuple(send), emit=tuple(emit), triggers=tuple(triggers), records=tuple(records), cancel=tuple(cancel))
        expect(await self.commit(c), "applied", "a commit without a fence")

    async def emit(self, scope: str, topic: str, *keys: str) -> None:
        await self.do(emit=[Event(scope, topic, key) for key in keys])

    async def claim(
        self, *queues: str, claimer: str = "w", limit: int = 100, for_ms: int = LEASE_MS, order: ClaimOrder = "priority"
    ) -> list[Delivery]:
        """Claim under a new lease."""
        claimed = await self.store.claim(queues or ("default",), lease=self.new_lease(claimer), limit=limit, for_ms=for_ms, order=order)
        return list(claimed.deliveries)

    def new_lease(self, claimer: str = "w") -> str:
        self._leases += 1
        return f"{claimer}/{self._leases}"

    async def claim_ids(self, *queues: str, limit: int = 100, order: ClaimOrder = "priority") -> list[str]:
        return [d.job.id for d in await self.claim(*queues, limit=limit, order=order)]

    async def take(self, job_id: str, *, claimer: str = "w", for_ms: int = LEASE_MS) -> Delivery:
        """Claim everything that is due; this must be all of it."""
        deliveries = await self.claim(claimer=claimer, for_ms=for_ms)
        expect([d.job.id for d in deliveries], [job_id], "claimed")
        return deliveries[0]

    async def end(self, delivery: Delivery, outcome: Outcome, *, keep_ms: int = DEFAULT_KEEP_MS) -> Committed:
        """Commit the outcome under the delivery's lease."""
        return await self.commit(Commit(fence=held(delivery), outcome=outcome, keep_ms=keep_ms))

    async def finish(self, delivery: Delivery, outcome: Final, *, keep_ms: int = DEFAULT_KEEP_MS) -> None:
        expect(await self.end(delivery, outcome, keep_ms=keep_ms), "applied", f"the end of {delivery.job.id}")

    async def sweep(self) -> int:
        """Sweep until nothing is left to sweep."""
        total = 0
        while n := await self.store.sweep(limit=2):
            total += n
        return total

    # -- looking ------------------------------------------------------------------------------------------------------------

    async def view(self, job_id: str) -> JobView:
        view = await self.store.job(job_id)
        if view is None:
            raise Broken(f"job {job_id!r} is absent")
        return view

    async def state(self, job_id: str) -> str:
        view = await self.store.job(job_id)
        return "absent" if view is None else view.state

    async def due_in_ms(self, job_id: str) -> int | None:
        return (await self.view(job_id)).due_in_ms

    async def ended(self, job_id: str) -> Final | None:
        """How it ended; None: not yet."""
        match await self.store.outcome(job_id):
            case Ended(outcome=final):
                return final
            case Pending():
                return None
            case Absent():
                raise Broken(f"job {job_id!r} is absent")

    async def keys(self, scope: str, topic: str) -> list[str]:
        return [e.key for e in await self.store.events(scope, topic)]


def by_id(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """For whoever does not ask in which order they came."""
    return sorted(deliveries, key=lambda d: d.job.id)


def held(delivery: Delivery) -> Held:
    return Held(delivery.job.id, delivery.lease)
