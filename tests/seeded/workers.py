"""Seeded bugs of the worker, its claimer, heart and gatherer, and a few of stores that need several workers to show.

Each is a function that patches the engine with a bug, in the way of a programmer who thought of everything but one thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import pytest

from culm import decide
from culm.batch import Gatherer
from culm.commit import Commit, Held
from culm.current import Attempt, ReadEvent
from culm.errors import StoreError, StoreUnavailable
from culm.job import Delivery
from culm.outcome import Lost, Outcome, Succeeded
from culm.sender import Answer, Sender
from culm.store import Claimed, FullStore, LeaseState
from culm.stores.rows import Row
from culm.stores.tables import Tables
from culm.worker import slots, worker
from culm.worker.claimer import Claimer
from culm.worker.decision import decision_of
from culm.worker.heart import Body
from culm.worker.runner import Runner
from culm.worker.slots import Slots

Bug: TypeAlias = Callable[[pytest.MonkeyPatch], None]

BUGS: dict[str, Bug] = {}


def _bug(name: str) -> Callable[[Bug], Bug]:
    def add(bug: Bug) -> Bug:
        BUGS[name] = bug
        return bug

    return add


# -- running -------------------------------------------------------------------------------------------------------------------


@_bug("ack before run")
def ack_before_run(patch: pytest.MonkeyPatch) -> None:
    right = Runner.run

    async def run(self: Runner, attempt: Attempt, ended: Callable[[Attempt, Outcome], None]) -> None:
        ended(attempt, Succeeded())
        await right(self, attempt, lambda *_: None)

    patch.setattr(Runner, "run", run)


@_bug("effects outside the commit")
def effects_outside_the_commit(patch: pytest.MonkeyPatch) -> None:
    right = Slots._ended

    def ended(self: Slots, attempt: Attempt, outcome: Outcome) -> None:
        effects, attempt.effects = attempt.effects, None
        if effects is not None and isinstance(outcome, Succeeded):
            self._gatherer.post(Commit(send=tuple(effects.send), emit=tuple(effects.emit), triggers=tuple(effects.triggers)))
        right(self, attempt, outcome)

    patch.setattr(Slots, "_ended", ended)


@_bug("effects of a failed attempt")
def effects_of_a_failed_attempt(patch: pytest.MonkeyPatch) -> None:
    def commit(attempt: Attempt, outcome: Outcome) -> Commit:
        return msgspec.structs.replace(decision_of(attempt, Succeeded()), outcome=outcome)

    patch.setattr(slots, "decision_of", commit)


@_bug("retry ignores the limit")
def retry_ignores_the_limit(patch: pytest.MonkeyPatch) -> None:
    right = decide.on_error

    def on_error(delivery: Delivery, error: BaseException, policy: Any, **more: Any) -> Outcome:
        return right(msgspec.structs.replace(delivery, attempt=1), error, policy, **more)

    patch.setattr(decide, "on_error", on_error)


@_bug("retry without a pause")
def retry_without_a_pause(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "pause_ms", lambda *_, draw: 0)


@_bug("timeout ignored")
def timeout_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "scan", lambda self, now: None)


@_bug("expiry ignored")
def expiry_ignored(patch: pytest.MonkeyPatch) -> None:
    right = decide.before_start

    def before_start(delivery: Delivery, *, knows_task: bool) -> Outcome | None:
        return right(msgspec.structs.replace(delivery, age_ms=0), knows_task=knows_task)

    patch.setattr(decide, "before_start", before_start)


@_bug("unknown task is lost at once")
def unknown_task_is_lost_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "_not_ours", lambda delivery, reason: Lost(reason))


@_bug("a join reads one event")
def a_join_reads_one_event(patch: pytest.MonkeyPatch) -> None:
    right = Runner._events

    async def events(self: Runner, attempt: Attempt) -> dict[str, list[ReadEvent]]:
        return {topic: found[:1] for topic, found in (await right(self, attempt)).items()}

    patch.setattr(Runner, "_events", events)


# -- leases --------------------------------------------------------------------------------------------------------------------


@_bug("the heart does not extend")
def the_heart_does_not_extend(patch: pytest.MonkeyPatch) -> None:
    async def beat(body: Body, store: FullStore, *, every_ms: int, lease_ms: int, pause: Callable[[float], Awaitable[bool]]) -> None:
        while True:
            await store.register(body.info(), for_ms=3 * every_ms)
            if not await pause(every_ms / 1000):
                return

    patch.setattr(worker, "beat", beat)


@_bug("cancel ignored by the worker")
def cancel_ignored_by_the_worker(patch: pytest.MonkeyPatch) -> None:
    right = Slots.leases_are

    def leases_are(self: Slots, held: Sequence[Held], states: Sequence[LeaseState]) -> None:
        right(self, held, ["held" if s == "cancelled" else s for s in states])

    patch.setattr(Slots, "leases_are", leases_are)


@_bug("a new lease after a lost reply")
def a_new_lease_after_a_lost_reply(patch: pytest.MonkeyPatch) -> None:
    async def claim(self: Claimer, limit: int) -> Claimed:
        while True:
            self._claims += 1
            lease = f"{self._name}/{self._claims}"
            try:
                if self._patient is not None and self._wait_ms:
                    return await self._claim_within(self._patient, lease, limit, "priority")
                return await self._store.claim(self._queues, lease=lease, limit=limit, for_ms=self._for_ms)
            except StoreError:
                if self._stopping:
                    return Claimed()
            await asyncio.sleep(0.05)

    patch.setattr(Claimer, "_claim", claim)


# -- stopping ------------------------------------------------------------------------------------------------------------------


@_bug("stop loses the claim in flight")
def stop_loses_the_claim_in_flight(patch: pytest.MonkeyPatch) -> None:
    right = Claimer._claim

    async def claim(self: Claimer, limit: int) -> Claimed:
        claimed = await right(self, limit)
        return Claimed() if self._stopping else claimed

    patch.setattr(Claimer, "_claim", claim)


@_bug("stop gives nothing back")
def stop_gives_nothing_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "_let_go", lambda self, delivery, outcome: None)


@_bug("stop does not await its last commits")
def stop_does_not_await_its_last_commits(patch: pytest.MonkeyPatch) -> None:
    async def flush(self: Gatherer) -> None:
        if self._first.task is not None:
            self._first.task.cancel()

    patch.setattr(Gatherer, "flush", flush)


# -- batches -------------------------------------------------------------------------------------------------------------------


@_bug("a resent batch gets a new number")
def a_resent_batch_gets_a_new_number(patch: pytest.MonkeyPatch) -> None:
    async def answers(self: Gatherer, sender: Sender, commits: list[Commit], begun_at: float) -> Sequence[Answer]:
        while True:
            try:
                return await self.store.commit(commits, batch=(sender.client, sender.number))
            except StoreUnavailable:
                sender.number += 1
            await asyncio.sleep(0.05)

    patch.setattr(Gatherer, "_answers", answers)


@_bug("an unanswered batch is taken for applied")
def an_unanswered_batch_is_taken_for_applied(patch: pytest.MonkeyPatch) -> None:
    async def answers(self: Gatherer, sender: Sender, commits: list[Commit], begun_at: float) -> Sequence[Answer]:
        try:
            return await self.store.commit(commits, batch=(sender.client, sender.number))
        except StoreUnavailable:
            return ["applied"] * len(commits)

    patch.setattr(Gatherer, "_answers", answers)


@_bug("a batch whose answer is lost is taken for applied")
def a_batch_whose_answer_is_lost_is_taken_for_applied(patch: pytest.MonkeyPatch) -> None:
    right = Gatherer._answered_at_once

    def answered(self: Gatherer, sender: Sender, number: int, answers: Sequence[Answer] | None) -> None:
        right(self, sender, number, ["applied"] * len(sender.under_way) if answers is None else answers)

    patch.setattr(Gatherer, "_answered_at_once", answered)


# -- stores that several workers use ---------------------------------------------------------------------------------------------


class ClaimNotAtomic(Tables):
    """What one claim takes stays in line for a moment: the next claim takes it, too."""

    def _take(self, lanes: Sequence[tuple[str, int]], now: int, limit: int) -> list[Row]:
        still: list[Row] = getattr(self, "still", [])
        again = [r for r in still if r.lease and not r.finished][:limit]
        for row in again:
            row.lease = ""
        taken = super()._take(lanes, now, limit - len(again))
        self.still = [] if again else taken
        return [*again, *taken]


class EarlyTimer(Tables):
    """A job is taken up to 25 ms before it is due: as if a worker's clock decided."""

    def _take(self, lanes: Sequence[tuple[str, int]], now: int, limit: int) -> list[Row]:
        return super()._take(lanes, now + 25, limit)


STORES: dict[str, type[Tables]] = {"claim not atomic": ClaimNotAtomic, "timer by another clock": EarlyTimer}
