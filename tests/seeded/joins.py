"""Bugs of events, triggers and joins."""

from __future__ import annotations

import msgspec

from culm.commit import Event, Trigger
from culm.outcome import Outcome, Suspended
from culm.stores.rows import Row, Scope, Waiting
from culm.stores.tables import Tables


class AgainIgnored(Tables):
    """A release that comes while the job runs is forgotten when it suspends."""

    def _end_attempt(self, row: Row, outcome: Outcome, keep_ms: int, now: int) -> None:
        if isinstance(outcome, Suspended):
            row.again = False
        super()._end_attempt(row, outcome, keep_ms, now)


class ReleaseIgnoresLeased(Tables):
    """A release of a leased job makes it claimable at once."""

    def _release(self, scope: Scope, waiting: Waiting, now: int) -> None:
        row = self.rows.get(waiting.trigger.job_id)
        if row is not None and row.lease:
            row.due = now
            self._next_expiry = now
        super()._release(scope, waiting, now)


class JoinOffByOne(Tables):
    """One topic too few releases."""

    def _await(self, trigger: Trigger, now: int) -> None:
        super()._await(msgspec.structs.replace(trigger, need=max(1, trigger.need - 1)), now)


class CountOffByOne(Tables):
    """A topic is reached one event too late."""

    def _await(self, trigger: Trigger, now: int) -> None:
        topics = tuple((topic, count + (not topic.startswith("done/"))) for topic, count in trigger.topics)
        super()._await(msgspec.structs.replace(trigger, topics=topics), now)


class EventBeforeTriggerLost(Tables):
    """A trigger hears only what is said after it."""

    def _count(self, scope: Scope, topic: str) -> int:
        return 0


class EventCountedTwice(Tables):
    """A join counts deliveries, not facts."""

    def _emit(self, event: Event, now: int) -> None:
        scope = self._scope(event.scope, now)
        held = scope.topics.setdefault(event.topic, {})
        key = event.key
        while key in held:
            key += "'"
        super()._emit(msgspec.structs.replace(event, key=key), now)


class EventOverwrites(Tables):
    """The last value of an event stands, not the first."""

    def _emit(self, event: Event, now: int) -> None:
        super()._emit(event, now)
        self.scopes[event.scope].topics[event.topic][event.key] = event.value


class TriggerFiresTwice(Tables):
    """The losers of a race stay on."""

    def _release(self, scope: Scope, waiting: Waiting, now: int) -> None:
        on = dict(waiting.on)
        super()._release(scope, waiting, now)
        for topic, count in on.items():
            waiting.on[topic] = count
            scope.waiting.setdefault(topic, []).append(waiting)


class EndsUnheard(Tables):
    """Joins hear nothing of the end of a job."""

    def _reached(self, scope: Scope, topic: str, count: int, now: int) -> None:
        if not topic.startswith("done/"):
            super()._reached(scope, topic, count, now)
