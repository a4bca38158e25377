"""The specification of a store, executable: the transition table as plain Python over dicts. No waiting, no locks, no I/O.

Every other store is checked against this one. Read `_apply` first: it is one decision, whole or not at all. Then `claim`.
A row (`rows.py`) that is open and has a due lies in `ready`, sorted; a leased one lies in `leased`; a finished one lies in
`rows` only, until `sweep`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import assert_never

from culm.commit import BatchId, Commit, Committed, Event, Held, Record, Trigger
from culm.job import DEFAULT_KEEP_MS, Delivery, Job, scope_of
from culm.outcome import DEAD, FINAL, Cancelled, Final, Outcome, Released, Retried, Snoozed, Suspended, encode_outcome
from culm.store import Claimed, ClaimOrder, LeaseState
from culm.stores.rows import Entry, Row, Scope, Waiting

TOMBSTONE_MS = 3_600_000  # a cancel of an unknown id waits so long for its send
ANSWERS_MS = 86_400_000  # a client that is silent for longer cannot ask for its last answers again
NEVER = 1 << 62


class Tables:
    """All state of a memory store, and the whole of its logic."""

    def __init__(self, now: Callable[[], int], *, ledger: list[tuple[str, str]] | None = None) -> None:
        self.now = now
        self.rows: dict[str, Row] = {}
        self.ready: dict[tuple[str, int], list[Entry]] = {}  # (queue, priority)
        self.leased: dict[str, Row] = {}
        self.scopes: dict[str, Scope] = {}
        self.tombstones: dict[str, int] = {}  # cancelled before it was sent -> until when that is remembered
        self.paused: set[str] = set()
        self.sweepable: list[tuple[int, int, str, str]] = []  # heap of (when, n, what, id)
        self.rung: set[str] = set()  # queues and jobs that somebody may wait for; the store rings and empties it
        self._answered: dict[str, tuple[int, list[Committed], int]] = {}
        self._claims: dict[str, tuple[str, int]] = {}  # claimer -> its last lease, and when
        self._next_expiry = NEVER  # no lease ends before this
        self._n = 0
        self._ledger = ledger  # (id, lease) of each final commit, for tests: a second one would show

    # -- commit -------------------------------------------------------------------------------------------------------------

    def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        client, number = batch
        known = self._answered.get(client)
        if known is not None and number <= known[0]:  # the reply was lost; nothing is applied twice, whatever has become of the jobs
            return known[1] if number == known[0] else ["lease_lost"] * len(commits)
        now = self.now()
        answers = self._apply_all(commits, now)
        self._answered[client] = (number, answers, now)
        return answers

    def _apply_all(self, commits: Sequence[Commit], now: int) -> list[Committed]:
        return [self._apply(c, now) for c in commits]

    def _apply(self, c: Commit, now: int) -> Committed:
        row, fence = None, c.fence
        if fence is not None:
            row = self.leased.get(fence.job_id)
            if row is None or row.lease != fence.lease:
                return "lease_lost"
        effects = c.send or c.emit or c.triggers or c.records or c.cancel
        if effects and self._conflicts(c):
            return "conflict"
        # Every check is done: from here on, all of it happens.
        if row is not None and c.outcome is not None:
            self._end_attempt(row, c.outcome, c.keep_ms, now)
        if effects:
            self._effects(c, now)
        return "applied"

    def _effects(self, c: Commit, now: int) -> None:
        for record in c.records:
            self._scope(scope_of(record.flow), now).records.setdefault(record.flow, {})[record.seq] = record.value
        for job in c.send:
            self._send(job, now)
        for event in c.emit:
            self._emit(event, now)
        for trigger in c.triggers:
            self._await(trigger, now)
        for job_id in c.cancel:
            self._cancel(job_id, now)

    def _conflicts(self, c: Commit) -> bool:
        coming: dict[str, str] = {}
        for job in c.send:
            known = self.rows.get(job.id)
            if (known.job.task if known else coming.setdefault(job.id, job.task)) != job.task:
                return True
        steps: dict[tuple[str, int], bytes] = {}
        for r in c.records:
            if self.flow_values(r.flow).get(r.seq, steps.setdefault((r.flow, r.seq), r.value)) != r.value:
                return True
        return any(t.job_id not in self.rows and t.job_id not in coming for t in c.triggers)

    def _end_attempt(self, row: Row, outcome: Outcome, keep_ms: int, now: int) -> None:
        lease, row.lease = row.lease, ""
        del self.leased[row.job.id]
        if isinstance(outcome, FINAL):
            self._finish(row, outcome, keep_ms, now, lease=lease)
            return
        match outcome:
            case Retried(after_ms=ms):
                due: int | None = now + ms
            case Snoozed(after_ms=ms):
                due, row.attempt = now + ms, row.attempt - 1
            case Suspended(after_ms=ms_or_none):
                due, row.attempt = (now if row.again else None if ms_or_none is None else now + ms_or_none), row.attempt - 1
            case Released(after_ms=ms):
                due, row.attempt = max(row.was_due or 0, now + ms if ms else 0), row.attempt - 1
            case _:
                assert_never(outcome)
        if row.cancelled:
            self._finish(row, Cancelled(), row.job.keep_ms, now, lease=lease)
            return
        row.last, row.again = outcome, False
        self._open(row, due)

    def _open(self, row: Row, due: int | None) -> None:
        row.due = due
        if due is None:
            return
        lane = self.ready.setdefault((row.job.queue, row.job.priority), [])
        entry = (due, row.n, row)
        if not lane or entry > lane[-1]:
            lane.append(entry)
        else:
            insort(lane, entry)
        self.rung.add(row.job.queue)

    def _unready(self, row: Row) -> None:
        if row.due is not None:
            lane = self.ready[row.job.queue, row.job.priority]
            del lane[bisect_left(lane, (row.due, row.n))]  # n is unique: rows are never compared

    def _finish(self, row: Row, final: Final, keep_ms: int, now: int, *, lease: str = "") -> None:
        job = row.job
        row.last, row.due, row.finished = final, None, True
        self.rung.add(job.id)
        if self._ledger is not None:
            self._ledger.append((job.id, lease))
        if job.topic:
            self._emit(Event(job.scope, job.topic, job.id, encode_outcome(final)), now)
        if self.scopes and (scope := self.scopes.get(job.scope)) is not None:
            scope.live -= 1
            if not scope.live:
                self._sweep_scope_at(now + keep_ms, job.scope, scope)
            self._reached(scope, f"done/{job.id}", 1, now)
        if type(final) in DEAD:
            row.died = now
        elif keep_ms:
            row.sweep_at = now + keep_ms
            self._sweep_at(row.sweep_at, "job", job.id)
        else:
            del self.rows[job.id]

    # -- what a commit carries ----------------------------------------------------------------------------------------------

    def _send(self, job: Job, now: int) -> None:
        if job.id in self.rows:
            return
        self._n += 1
        row = self.rows[job.id] = Row(job, self._n, now, None)
        self._enter(job, now)
        if job.id in self.tombstones:
            self._finish(row, Cancelled("before it was sent"), job.keep_ms, now)
        elif job.after_ms is not None:
            self._open(row, max(now + job.after_ms, job.at_ms or 0))

    def _enter(self, job: Job, now: int) -> None:
        """Count it among the live jobs of its scope, if there is anything to count for."""
        if "~" in job.id or job.topic or (self.scopes and job.id in self.scopes):
            self._scope(job.scope, now, but=job.id).live += 1

    def _scope(self, root: str, now: int, but: str = "") -> Scope:
        """The scope's counter; made when it is first needed, counting the root if that is unfinished."""
        scope = self.scopes.get(root)
        if scope is None:
            row = self.rows.get(root) if root != but else None
            scope = self.scopes[root] = Scope(live=1 if row is not None and not row.finished else 0)
        if not scope.live:
            self._sweep_scope_at(now + DEFAULT_KEEP_MS, root, scope)
        return scope

    def _emit(self, event: Event, now: int) -> None:
        scope = self._scope(event.scope, now)
        held = scope.topics.setdefault(event.topic, {})
        if event.key not in held:
            held[event.key] = event.value
            self._reached(scope, event.topic, len(held), now)

    def _await(self, trigger: Trigger, now: int) -> None:
        scope = self._scope(trigger.scope, now)
        waiting = Waiting(trigger)
        for topic, count in trigger.topics:
            if self._count(scope, topic) >= count:
                waiting.reached += 1
            else:
                waiting.on[topic] = count
                scope.waiting.setdefault(topic, []).append(waiting)
        if waiting.reached >= trigger.need:
            self._release(scope, waiting, now)

    def _count(self, scope: Scope, topic: str) -> int:
        if topic.startswith("done/"):
            row = self.rows.get(topic[5:])
            return 1 if row is None or row.finished else 0
        return len(scope.topics.get(topic, ()))

    def _reached(self, scope: Scope, topic: str, count: int, now: int) -> None:
        for waiting in scope.waiting.get(topic, [])[:]:
            if topic in waiting.on and count >= waiting.on[topic]:
                self._unlist(scope, waiting, topic)
                waiting.reached += 1
                if waiting.reached >= waiting.trigger.need:
                    self._release(scope, waiting, now)

    def _unlist(self, scope: Scope, waiting: Waiting, topic: str) -> None:
        del waiting.on[topic]
        scope.waiting[topic].remove(waiting)
        if not scope.waiting[topic]:
            del scope.waiting[topic]

    def _release(self, scope: Scope, waiting: Waiting, now: int) -> None:
        for topic in list(waiting.on):
            self._unlist(scope, waiting, topic)
        row = self.rows.get(waiting.trigger.job_id)
        if row is None or row.finished:
            return
        if row.lease:
            row.again = True
        elif row.due is None or row.due > now:
            self._unready(row)
            self._open(row, now)

    def _cancel(self, job_id: str, now: int) -> None:
        row = self.rows.get(job_id)
        if row is None:
            self.tombstones[job_id] = now + TOMBSTONE_MS
            self._sweep_at(now + TOMBSTONE_MS, "tombstone", job_id)
        elif row.lease:
            row.cancelled = True
        elif not row.finished:
            self._unready(row)
            self._finish(row, Cancelled(), row.job.keep_ms, now)

    # -- leases -------------------------------------------------------------------------------------------------------------

    def claim(self, queues: Sequence[str], *, lease: str, limit: int, for_ms: int, order: ClaimOrder) -> Claimed:
        claimer, now = lease.rpartition("/")[0], self.now()
        if self._claims.get(claimer, ("", 0))[0] == lease:  # the reply was lost
            return Claimed([_delivery(r, now) for r in self.leased.values() if r.lease == lease], 0)
        queues = [q for q in dict.fromkeys(queues) if q not in self.paused]
        picked = self._overdue(queues, now, limit)
        priorities: Iterable[Sequence[int]] = ([p] for p in range(9, -1, -1)) if order == "priority" else [range(9, -1, -1)]
        for some in priorities:
            if len(picked) < limit:
                picked += self._take([(q, p) for p in some for q in queues], now, limit - len(picked))
        granted = self._grant(picked, lease, now, now + for_ms)
        if picked:
            self._claims[claimer] = (lease, now)
            self._next_expiry = min(self._next_expiry, now + for_ms)
        due = min((lane[0][0] for (q, _), lane in self.ready.items() if lane and q in queues), default=None)
        return Claimed(granted, None if due is None else max(0, due - now))

    def _overdue(self, queues: Sequence[str], now: int, limit: int) -> list[Row]:
        """Leased jobs whose lease ran out, the earliest first; whoever was asked to stop is stopped now."""
        if now < self._next_expiry:
            return []
        found = sorted((r.due or 0, r.n, r) for r in self.leased.values() if (r.due or 0) <= now and r.job.queue in queues)
        for _, _, row in found:
            if row.cancelled:
                lease, row.lease = row.lease, ""
                del self.leased[row.job.id]
                self._finish(row, Cancelled(), row.job.keep_ms, now, lease=lease)
        self._next_expiry = min((r.due or 0 for r in self.leased.values()), default=NEVER)
        return [r for _, _, r in found if not r.finished][:limit]

    def _take(self, lanes: Sequence[tuple[str, int]], now: int, limit: int) -> list[Row]:
        """The oldest due of some lanes, taken out of them."""
        used = [lane for name in lanes if (lane := self.ready.get(name))]
        found: list[Entry] = []
        for lane in used:
            found += lane[: min(limit, bisect_right(lane, (now, NEVER)))]  # n is unique: rows are never compared
        if len(used) > 1:
            found = sorted(found)[:limit]
        if found:
            for lane in used:
                del lane[: bisect_right(lane, found[-1])]
        return [row for _, _, row in found]

    def _grant(self, rows: Sequence[Row], lease: str, now: int, until: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for row in rows:
            job = row.job
            if row.lease:
                row.expiries += 1
            else:
                row.was_due = row.due
                row.attempt += 1
                self.leased[job.id] = row
            row.fence += 1
            row.lease = lease
            row.due = until
            deliveries.append(Delivery(job, lease, row.attempt, row.expiries, row.fence, now - row.sent))
        return deliveries

    def extend(self, held: Sequence[Held], *, for_ms: int) -> list[LeaseState]:
        until, answers = self.now() + for_ms, list[LeaseState]()
        for h in held:
            row = self.leased.get(h.job_id)
            if row is None or row.lease != h.lease:
                answers.append("lost")
            else:
                row.due = until
                self._next_expiry = min(self._next_expiry, until)  # it may end sooner than was granted
                answers.append("cancelled" if row.cancelled else "held")
        return answers

    # -- retention, and the dead ----------------------------------------------------------------------------------------------

    def _sweep_at(self, when: int, what: str, name: str) -> None:
        self._n += 1
        heappush(self.sweepable, (when, self._n, what, name))

    def _sweep_scope_at(self, when: int, root: str, scope: Scope) -> None:
        scope.sweep_at = when
        self._sweep_at(when, "scope", root)

    def sweep(self, limit: int) -> int:
        now, swept = self.now(), 0
        self._answered = {c: a for c, a in self._answered.items() if a[2] > now - ANSWERS_MS}
        self._claims = {c: a for c, a in self._claims.items() if a[1] > now - ANSWERS_MS}
        while swept < limit and self.sweepable and self.sweepable[0][0] <= now:
            when, _, what, name = heappop(self.sweepable)
            if what == "tombstone" and self.tombstones.get(name) == when:
                del self.tombstones[name]
            elif what == "job" and (row := self.rows.get(name)) is not None and row.sweep_at == when:
                del self.rows[name]
            elif what == "scope" and (scope := self.scopes.get(name)) is not None and not scope.live and scope.sweep_at == when:
                del self.scopes[name]
            else:
                continue  # it came to life again, or goes later
            swept += 1
        return swept

    def dead(self, job_ids: Iterable[str]) -> list[Row]:
        rows = (self.rows.get(i) for i in dict.fromkeys(job_ids))
        return [r for r in rows if r is not None and r.finished and type(r.last) in DEAD]

    def replay(self, job_ids: Sequence[str]) -> int:
        now, rows = self.now(), self.dead(job_ids)
        for row in rows:
            row.finished, row.cancelled, row.again, row.died = False, False, False, None
            row.replays += 1
            row.attempt, row.expiries, row.sent = 0, 0, now
            self._enter(row.job, now)
            self._open(row, now)
        return len(rows)

    def discard(self, job_ids: Sequence[str]) -> int:
        rows = self.dead(job_ids)
        for row in rows:
            del self.rows[row.job.id]
        return len(rows)

    def purge(self, queue: str) -> int:
        now = self.now()
        rows = [r for r in self.rows.values() if r.job.queue == queue and not r.finished and not r.lease]
        for row in rows:
            self._cancel(row.job.id, now)
        return len(rows)

    # -- what readers ask -----------------------------------------------------------------------------------------------------

    def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        now, rows = self.now(), [(self.leased.get(h.job_id), h.lease) for h in dict.fromkeys(held)]
        return [_delivery(row, now) for row, lease in rows if row is not None and row.lease == lease]

    def events(self, scope: str, topic: str) -> list[Event]:
        held = self.scopes[scope].topics.get(topic, {}) if scope in self.scopes else {}
        return [Event(scope, topic, key, value) for key, value in sorted(held.items())]

    def flow_values(self, flow: str) -> dict[int, bytes]:
        scope = self.scopes.get(scope_of(flow))
        return scope.records.get(flow, {}) if scope is not None else {}

    def flow_records(self, flow: str) -> list[Record]:
        return [Record(flow, seq, value) for seq, value in sorted(self.flow_values(flow).items())]


def _delivery(row: Row, now: int) -> Delivery:
    return Delivery(row.job, row.lease, row.attempt, row.expiries, row.fence, now - row.sent)
