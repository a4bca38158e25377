"""Slots: so many attempts run at once, each in an asyncio task and a context of its own; the next delivery waits in the buffer.

What is started together takes its first steps together; what of it has ended by then is handed to the gatherer together, and its slots take
the next deliveries. It is held until the store has answered.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, TypeAlias, cast

from msgspec.structs import replace

from culm import decide
from culm.app import App
from culm.commit import Commit, Held, weigh
from culm.current import Attempt
from culm.errors import StoreFull, StoreUnavailable
from culm.job import PLAIN, Delivery
from culm.lanes import Gathering
from culm.outcome import Failed, Outcome, Released, Succeeded
from culm.sender import Answer, Then
from culm.store import LeaseState
from culm.worker.board import Board
from culm.worker.decision import decision_of
from culm.worker.hooked import Hooked
from culm.worker.own_task import task_maker
from culm.worker.runner import Runner
from culm.worker.tally import Tally
from culm.worker.wrapped import Wrapped

log = logging.getLogger("culm.worker")

End: TypeAlias = Callable[[Attempt, Outcome], None]

STALE_SCANS = 5  # scans without an end, before the buffer is given back
FULL_PAUSE_MS = 5_000  # a job that a full store could not take the end of runs again after so long
STUBBORN_S = 5.0  # a task that goes on although it was cancelled is cancelled again, so often


class Slots:
    """Runs deliveries, at most `concurrency` at once.

    Args:
        apart: these are suspects, who run one after another: each begins when the end of the former is written. If it kills the process
            then, that end is not lost with it, or the two might run together for ever.
        watch: makes of what is called with each attempt's end what is called instead; that must not raise.

    Attributes:
        done: attempts that ended.
        hungry: told whenever the buffer runs low.
    """

    def __init__(
        self,
        app: App,
        runner: Runner | Wrapped | Hooked,
        gatherer: Gathering,
        *,
        concurrency: int,
        tally: Tally,
        hungry: Callable[[], None],
        board: Board | None = None,
        apart: bool = False,
        watch: Callable[[End], End] | None = None,
    ) -> None:
        self._app = app
        self.tally = tally
        self._gatherer = gatherer
        self._post = gatherer.post
        gatherer.answered = self._answered
        self._loop = asyncio.get_running_loop()
        self._run = runner.run  # bound once, not for each job
        self._base = contextvars.copy_context()
        self._hungry = hungry
        self._board = board
        self._apart = apart
        self._settling: asyncio.Task[None] | None = None
        self.concurrency = concurrency
        self.low_water = 0  # of the buffer; from there on down the claimer is told when something ends
        self.buffer: deque[Delivery] = deque()
        self.running: dict[Attempt, asyncio.Task[None]] = {}  # in the order in which they began
        self._ends: list[tuple[Attempt, Outcome]] = []  # not decided yet
        self._turning = False  # a turn is planned
        self.done = 0
        self._done_then, self._quiet_scans = 0, 0
        self._fed_at: dict[str, float] = {}  # when the deliveries of a lease came into the buffer, the oldest first
        self.fenced = 0
        self._without_hook: dict[Held, Commit] = {}  # ends whose hooks sent something, as they are without that
        self._closing = False
        self._end = self._ended if watch is None else watch(self._ended)
        self._empty = asyncio.Event()
        self._empty.set()

    def held(self) -> list[Held]:
        """What this worker holds, from when it was claimed and fed here until its commit is answered; called from the heart's thread.

        A job goes from the buffer to the running to the gatherer, and is there before it leaves where it was: asked in that
        order, none is missed on its way.
        """
        waiting, running = list(self.buffer), list(self.running)
        held = dict.fromkeys(Held(d.job.id, d.lease) for d in waiting)
        held.update(dict.fromkeys(Held(a.job.id, a.delivery.lease) for a in running))
        held.update(dict.fromkeys(c.fence for c in self._gatherer.unanswered() if c.fence is not None))
        return list(held)

    @property
    def free(self) -> int:
        return self.concurrency - len(self.running)

    def feed(self, deliveries: Sequence[Delivery]) -> None:
        """Take what was claimed: run it, or keep it for the next free slot."""
        if not deliveries:
            return
        buffer = self.buffer
        buffer.extend(deliveries)
        self.tally.fed(deliveries)
        if self._closing:
            self.release_buffered()
            return
        lease = deliveries[0].lease
        self._fed_at[lease] = self._loop.time()
        oldest = buffer[0].lease
        while (gone := next(iter(self._fed_at), oldest)) != oldest:
            del self._fed_at[gone]
        if self._board is not None:
            self._board.claimed(lease, [d.job.id for d in deliveries], in_buffer=len(self._fed_at))
        self._empty.clear()
        if self._settling is None:
            self._fill()

    def _fill(self) -> None:
        """The oldest of the buffer run, as far as there are slots. Each is in the buffer until it is among the running: the heart asks at
        any moment."""
        buffer, running, free = self.buffer, self.running, self.free
        if not buffer or free <= 0:
            return
        make, planned = task_maker(self._loop), self._turning
        self._turning = True  # before: where tasks are eager, what ends in its first step ends in here
        for _ in range(min(free, len(buffer))):
            delivery = buffer[0]
            job = delivery.job
            if job.expires_ms is not None or job.deadline_ms is not None:
                now = self._loop.time()
                waited = now - self._fed_at.get(delivery.lease, now)
                delivery = replace(delivery, age_ms=delivery.age_ms + round(waited * 1000))
            attempt = Attempt(delivery, job, self._app)
            if self._board is not None:
                attempt.slot = self._board.begin(delivery.lease, job.id)
            running[attempt] = make(self._run(attempt, self._end), loop=self._loop, name=job.id, context=self._base.copy())
            buffer.popleft()
        if not planned:
            self._loop.call_soon(self._turn)

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """The last step of an attempt's asyncio task."""
        attempt.over = True
        if self._board is not None and attempt.slot >= 0:
            self._board.end(attempt.slot)
        self._ends.append((attempt, outcome))
        if not self._turning:
            self._turn()

    def _turn(self) -> None:
        """What ended is decided together, and its slots are filled together: after the first steps of what was started together, or when
        one ends later."""
        self._turning = False
        self._take_ends()
        if not self._apart:
            self._fill()
        self._empty_if_it_is()

    def _take_ends(self) -> None:
        """The decisions of what ended go to the store, in order; each is among the unanswered before it leaves the running."""
        ends, commits, weight = self._ends, list[Commit](), 0
        if not ends:
            return
        for attempt, outcome in ends:
            job = attempt.job
            if attempt.effects is None and attempt.committed is None and job.v == PLAIN:
                # As decision_of and weigh, without calls for each job.
                commit = Commit(fence=Held(job.id, attempt.delivery.lease), outcome=outcome, keep_ms=job.keep_ms)
                commits.append(commit)
                weight += 1 + (len(outcome.value) >> 12 if type(outcome) is Succeeded else 0)
            else:
                self._gatherer.post_all(commits, weight)
                commits, weight = [], 0
                self._post_end(attempt, outcome)
        self._gatherer.post_all(commits, weight)
        for attempt, _ in ends:
            self.running.pop(attempt, None)
        self.done += len(ends)
        if self._apart:
            self._settling = self._settling or self._loop.create_task(self._settle())
        elif len(self.buffer) - len(ends) <= self.low_water:
            self._hungry()
        self._ends = []  # last: if a signal raises in here, what is posted twice is refused once, and nothing is forgotten

    def _post_end(self, attempt: Attempt, outcome: Outcome) -> None:
        """The decision of one attempt goes to the store, if it is not there. A defect here costs its lease, and no other's end."""
        job = attempt.job
        try:
            if attempt.committed is None:
                commit = decision_of(attempt, outcome)
                then: Then | None = None if job.v == PLAIN else self._app.payloads.leaving(job, outcome)
                if attempt.before_hook is not None:
                    then = self._keep_without_hook(commit, attempt.before_hook, then)
                self._post(commit, then, weight=weigh(commit))
            elif attempt.committed != "applied":
                self._fence(job.id)
        except Exception:
            log.exception("commit.failed: job %s: a defect around its end; it runs again when its lease is over", job.id)

    def _keep_without_hook(self, commit: Commit, sizes: tuple[int, int, int], then: Then | None) -> Then:
        """Until the commit is answered: an end must not fail for what its hook sent."""
        assert commit.fence is not None
        fence, (sent, emitted, triggers) = commit.fence, sizes
        self._without_hook[fence] = replace(
            commit, send=commit.send[:sent], emit=commit.emit[:emitted], triggers=commit.triggers[:triggers]
        )

        def answered(answer: Answer) -> None:
            self._without_hook.pop(fence, None)
            if then is not None:
                then(answer)

        return answered

    async def _settle(self) -> None:
        """Apart: what ended is written, then the next begins."""
        await self._gatherer.flush()
        self._settling = None
        if not self.running:
            self._fill()
        self._empty_if_it_is()

    def _empty_if_it_is(self) -> None:
        if not self.running and not self.buffer:
            self._empty.set()

    def _answered(self, commits: Sequence[Commit], answers: Sequence[Answer]) -> None:
        """Deal with the commits of a batch that were not applied."""
        if answers.count("applied") == len(answers):
            return
        unknown = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
        if unknown:
            log.error("commit.unknown: %d commits, %s; if they did not happen, those jobs run again", len(unknown), unknown[0])
        for commit, answer in zip(commits, answers, strict=True):
            if answer != "applied" and commit.fence is not None and not isinstance(answer, StoreUnavailable):
                self._refused(commit, commit.fence, answer)

    def _refused(self, commit: Commit, fence: Held, answer: Answer) -> None:
        if isinstance(answer, StoreFull) and not isinstance(commit.outcome, Released):
            log.error("commit.failed: job %s: %s; it runs again later", fence.job_id, answer, extra={"job_id": fence.job_id})
            self._post(Commit(fence=fence, outcome=Released(FULL_PAUSE_MS), keep_ms=commit.keep_ms))
        elif isinstance(answer, Exception):  # the store cannot write this one, ever
            log.error("commit.failed: job %s: %r", fence.job_id, answer, extra={"job_id": fence.job_id})
            if not isinstance(commit.outcome, Failed):
                self._post(Commit(fence=fence, outcome=Failed(decide.fault_of(answer)), keep_ms=commit.keep_ms))
        elif answer == "conflict" and (plain := self._without_hook.pop(fence, None)) is not None:
            log.error(
                "hook.conflict: of job %s: the hook sent an id that another task has; the end stands, without what it sent",
                fence.job_id,
                extra={"job_id": fence.job_id},
            )
            self._post(plain, weight=weigh(plain))
        elif answer == "conflict":
            log.error(
                "commit.conflict: job %s sent an id that another task has, or a step that another run recorded",
                fence.job_id,
                extra={"job_id": fence.job_id},
            )
            # What it sent cannot be; end it without, or it would conflict for ever.
            self._post(Commit(fence=fence, outcome=decide.on_conflict(), keep_ms=commit.keep_ms))
        else:
            self._fence(fence.job_id)

    def _fence(self, job_id: str) -> None:
        self.fenced += 1
        log.warning("commit.fenced: job %s: another worker has it", job_id, extra={"job_id": job_id})

    # -- stopping -----------------------------------------------------------------------------------------------------------

    def scan(self, now: float) -> None:
        """Stop the attempts whose time is over. Called a few times a second: cheaper than a timer per job."""
        if self._ends or (self.buffer and self.free > 0):
            self._turn()  # a signal raised in one
        for attempt in list(self.running):
            if not attempt.ends_at:
                left_ms = decide.time_left_ms(attempt.delivery)
                attempt.ends_at = float("inf") if left_ms is None else now + left_ms / 1000
                if self._board is not None:
                    self._board.name(attempt.slot, attempt.delivery.lease, attempt.job.id)
            elif now >= attempt.ends_at:
                attempt.ends_at = now + STUBBORN_S
                self._stop(attempt, "timeout")

    def leases_are(self, held: Sequence[Held], states: Sequence[LeaseState]) -> None:
        """What the heart heard: stop what is lost or cancelled."""
        bad = {(h.job_id, h.lease): state for h, state in zip(held, states, strict=True) if state != "held"}
        if not bad:
            return
        self._take_ends()
        for attempt in list(self.running):
            state = bad.get((attempt.job.id, attempt.delivery.lease))
            if state is not None and not attempt.stopping:
                self._stop(attempt, "cancel" if state == "cancelled" else "lost")
        kept: deque[Delivery] = deque()
        for delivery in self.buffer:
            state = bad.get((delivery.job.id, delivery.lease))
            if state is None:
                kept.append(delivery)
            else:
                self._let_go(delivery, decide.on_cancel() if state == "cancelled" else Released())
        self.buffer = kept

    def _stop(self, attempt: Attempt, why: Literal["timeout", "cancel", "shutdown", "lost"]) -> None:
        attempt.stopping = attempt.stopping or why
        attempt.cancelled = True
        task = self.running[attempt]
        task.cancel()
        if inspect.getcoroutinestate(cast("Coroutine[Any, Any, None]", task.get_coro())) == inspect.CORO_CREATED:
            # Cancelled before its first step it never runs, and tells nobody: its slot and its lease would be held for ever.
            self._ended(attempt, decide.on_cancel() if why == "cancel" else Released())
            self._take_ends()

    def release_stale(self) -> bool:
        """Give back the buffer when nothing has ended for a while: what waits behind long jobs may run elsewhere. Says whether it did."""
        if not self.buffer or self.done != self._done_then:
            self._done_then, self._quiet_scans = self.done, 0
            return False
        self._quiet_scans += 1
        if self._quiet_scans < STALE_SCANS:
            return False
        self.release_buffered()
        return True

    def release_buffered(self) -> None:
        """Give back what has not started, for others."""
        while self.buffer:
            self._let_go(self.buffer[0], Released())
            self.buffer.popleft()

    def _let_go(self, delivery: Delivery, outcome: Outcome) -> None:
        self.tally.given_back(delivery)
        self._post(Commit(fence=Held(delivery.job.id, delivery.lease), outcome=outcome, keep_ms=delivery.job.keep_ms))

    async def drain(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Start nothing more; await what runs, until the grace is over or somebody is in a hurry; then stop and release the rest."""
        self._closing = True
        self.release_buffered()
        self._take_ends()
        self._empty_if_it_is()
        for attempt in [a for a in self.running if a.waits]:
            self._stop(attempt, "shutdown")
        done, hurried = asyncio.ensure_future(self._empty.wait()), asyncio.ensure_future(hurry.wait())
        await asyncio.wait([done, hurried], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        hurried.cancel()
        self._take_ends()
        for attempt in list(self.running):
            self._stop(attempt, "shutdown")
        if self.running:
            await asyncio.wait(list(self.running.values()), timeout=1.0)
        self._take_ends()
        for attempt in list(self.running):  # it does not listen: its job is given back, whatever it still does
            attempt.over = True
            if self._board is not None:
                self._board.end(attempt.slot)  # no death is its doing any more
                attempt.slot = -1
            self._let_go(attempt.delivery, Released())
