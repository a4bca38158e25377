"""What readers see, put together from what the scripts return."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from culm.commit import Held
from culm.job import Delivery
from culm.outcome import FINAL, Outcome, decode_outcome
from culm.store import Absent, Ended, JobView, Pending, QueueCounts, State
from culm.stores.redis.connection import Reply
from culm.stores.redis.link import Link
from culm.stores.redis.outcomes import PENDING, Found
from culm.stores.redis.records import Head, read_record
from culm.stores.redis.wire import Word

PAGE = 200  # jobs of one look
_STATES: dict[bytes, State] = {b"1": "succeeded", b"2": "failed", b"3": "cancelled", b"4": "expired", b"5": "lost"}
_DEAD: tuple[State, ...] = ("failed", "lost")


def outcome(found: Found) -> Ended | Pending | Absent:
    if found == PENDING:
        return Pending()
    if not found or not isinstance(found, bytes):
        return Absent()
    final = decode_outcome(found[found.index(b"\n") + 1 :])
    assert isinstance(final, FINAL)
    return Ended(final)


def view(now: int, row: Sequence[bytes]) -> JobView:
    job_id, record, held, state_text, stored, until = row
    head = Head(record)
    due, sent, lease = head.due, head.sent, _lease(row).decode()
    attempt, expiries = (1, 0) if held else (0, 0)
    last: Outcome | None = decode_outcome(stored[stored.index(b"\n") + 1 :]) if stored else None
    state: State = "leased" if held else "open"
    if state_text:
        attempt, expiries, due, sent = _state(state_text)
    if stored.startswith(b"F"):
        state, due = _STATES[stored[1:2]], None
        attempt, expiries, own_sent = _ended(stored)
        sent = own_sent or sent
    if held:
        due = round(float(until))
    return JobView(
        id=job_id.decode(),
        task=head.task,
        queue=head.queue,
        priority=head.priority,
        state=state,
        attempt=attempt,
        expiries=expiries,
        due_in_ms=None if due is None else max(0, due - now),
        age_ms=now - sent,
        last=last,
        lease=lease,
        topic=head.topic,
    )


def _lease(row: Sequence[bytes]) -> bytes:
    return row[2][1:].partition(b"\n")[0]


def _delivery(now: int, row: Sequence[bytes], record: bytes | None) -> Delivery:
    job, sent, broken = read_record(row[0].decode(), record)
    attempt, expiries, fence = 1, 0, 1
    if state := row[3]:
        attempt, expiries, _, sent = _state(state)
        fence = int(state.split()[2])
    return Delivery(job, _lease(row).decode(), attempt, expiries, fence, now - sent, broken)


def _state(text: bytes) -> tuple[int, int, int | None, int]:
    attempt, expiries, _, _, _, due, sent = text.split()
    return int(attempt), int(expiries), None if due == b"inf" else int(due), int(sent)


def _ended(stored: bytes) -> tuple[int, int, int]:
    attempt, expiries, _, sent = stored[2 : stored.index(b"\n")].split()
    return int(attempt), int(expiries), int(sent)


def counts(rows: Iterable[Sequence[Reply]]) -> list[QueueCounts]:
    found = [
        QueueCounts(
            queue=queue.decode(),
            paused=bool(paused),
            ready=ready,
            delayed=delayed,
            waiting=waiting,
            leased=leased,
            oldest_ms=int(oldest) if oldest else None,
        )
        for queue, paused, ready, delayed, waiting, leased, oldest in rows
    ]
    return sorted(found, key=lambda c: c.queue)


class Jobs:
    """Lists of jobs. There is no index of all ids: they are gathered from where each state keeps its own."""

    def __init__(self, link: Link, prefix: str, now: Callable[[], Word]) -> None:
        self._link = link
        self._prefix = prefix
        self._now = now

    async def views(self, ids: Sequence[str]) -> list[JobView]:
        moment, *rows = await self._link.run("view", self._now(), *ids)
        return [view(int(moment), row) for row in rows]

    async def deliveries(self, held: Sequence[Held]) -> list[Delivery]:
        """What these leases still hold."""
        wanted = {(h.job_id.encode(), h.lease.encode()) for h in held}
        moment, *rows = await self._link.run("view", self._now(), *dict.fromkeys(h.job_id for h in held))
        rows = [row for row in rows if (row[0], _lease(row)) in wanted]
        if not rows:
            return []
        records = await self._link.ask("HMGET", self._prefix + "jobs", *[row[0] for row in rows])
        return [_delivery(int(moment), row, record) for row, record in zip(rows, records, strict=True)]

    async def find(self, *, state: State | None, queue: str | None, task: str | None, after: str, limit: int) -> list[JobView]:
        ids = [job_id for job_id in await self._ids(state, queue) if job_id > after]
        found: list[JobView] = []
        heapq.heapify(ids)
        while ids and len(found) < limit:
            page = [heapq.heappop(ids) for _ in range(min(PAGE, len(ids)))]
            views = await self.views(page)
            found += [v for v in views if state in (None, v.state) and queue in (None, v.queue) and task in (None, v.task)]
        return found[:limit]

    async def _ids(self, state: State | None, queue: str | None) -> list[str]:
        """Those that may be in that state, each once."""
        ids: set[bytes] = set()
        if state in (None, "open"):
            for lane in await self._link.ask("SMEMBERS", self._prefix + "lanes"):
                if queue is None or lane[1:] == queue.encode():
                    members = await self._scan("ZSCAN", f"{self._prefix}q:{lane.decode()}", 2)
                    ids.update(member[16:] for member in members)
        if state in (None, "leased"):
            ids.update(await self._scan("HSCAN", self._prefix + "held", 2))
        if state is None or state in _DEAD:
            ids.update(await self._scan("SSCAN", self._prefix + "dead", 1))
        if state is None or state in ("succeeded", "cancelled", "expired"):
            ids.update(await self._scan("ZSCAN", self._prefix + "expire", 2))
        return [job_id.decode() for job_id in ids if job_id]  # `held` has a field without a name

    async def _scan(self, command: str, key: str, step: int) -> list[bytes]:
        cursor, found = b"0", list[bytes]()
        while True:
            cursor, some = await self._link.ask(command, key, cursor, "COUNT", 1000)
            found += some[::step]
            if cursor == b"0":
                return found
