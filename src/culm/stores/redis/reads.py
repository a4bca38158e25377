"""What readers see, put together from what the scripts return."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from culm.commit import GLOBAL_SCOPE, Held
from culm.job import Delivery, scope_of
from culm.outcome import Outcome, decode_outcome
from culm.store import Awaited, JobView, QueueCounts, Shown, State, Waits
from culm.stores.redis.connection import Reply
from culm.stores.redis.records import Head, read_record
from culm.stores.redis.way import Way
from culm.stores.redis.wire import Word

PAGE = 200  # jobs of one look
BUNDLES = 50  # of one look, of a hundred jobs each
_STATES: dict[bytes, State] = {b"1": "succeeded", b"2": "failed", b"3": "cancelled", b"4": "expired", b"5": "lost"}
_DEAD = ("failed", "lost")


def view(now: int, row: Sequence[bytes]) -> JobView:
    job_id, record, held, state_text, stored, until, replays = row
    head = Head(record)
    due, sent, lease = head.due, head.sent, _lease(row).decode()
    attempt, expiries, claims, died = 1 if held else 0, 0, 1 if held else 0, None
    last: Outcome | None = decode_outcome(stored[stored.index(b"\n") + 1 :]) if stored else None
    state: State = "leased" if held else "open"
    if state_text:
        attempt, expiries, claims, due, sent = _state(state_text)
    if stored.startswith(b"F"):
        state, due = _STATES[stored[1:2]], None
        attempt, expiries, claims, own_sent, died = _ended(stored)
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
        claims=claims,
        replays=int(replays or 0),
        dead_ms=None if died is None else now - died,
    )


def _lease(row: Sequence[bytes]) -> bytes:
    return row[2][1:].partition(b"\n")[0]


def _delivery(now: int, row: Sequence[bytes], record: bytes | None) -> Delivery:
    job, sent, broken = read_record(row[0].decode(), record)
    attempt, expiries, fence = 1, 0, 1
    if row[3]:
        attempt, expiries, fence, _, sent = _state(row[3])
    return Delivery(job, _lease(row).decode(), attempt, expiries, fence, now - sent, broken)


def _state(text: bytes) -> tuple[int, int, int, int | None, int]:
    attempt, expiries, fence, _, _, due, sent = text.split()
    return int(attempt), int(expiries), int(fence), None if due == b"inf" else int(due), int(sent)


def _ended(stored: bytes) -> tuple[int, int, int, int, int | None]:
    attempt, expiries, fence, sent, *died = stored[2 : stored.index(b"\n")].split()
    return int(attempt), int(expiries), int(fence), int(sent), int(died[0]) if died else None


def waits(ahead: int | bytes, triggers: Sequence[Sequence[Any]]) -> Waits:
    found = [
        Awaited(scope=scope.decode(), need=need, reached=reached, topics=tuple(sorted(_threes(rest))))
        for scope, need, reached, *rest in triggers
    ]
    found.sort(key=lambda a: (a.scope, a.need, a.reached, a.topics))
    return Waits(ahead=ahead if isinstance(ahead, int) else None, awaits=tuple(found))


def _threes(words: Sequence[Any]) -> Iterable[tuple[str, int, int]]:
    for topic, count, there in zip(words[::3], words[1::3], words[2::3], strict=True):
        yield topic.decode(), count, there


def scopes_of(job_id: str) -> Sequence[str]:
    """Those in which a trigger may release it."""
    return scope_of(job_id), GLOBAL_SCOPE


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

    def __init__(self, link: Way, prefix: str, now: Callable[[], Word]) -> None:
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

    async def find(
        self, *, state: Shown | None, queue: str | None, task: str | None, scope: str | None, after: str, limit: int
    ) -> list[JobView]:
        found: list[JobView] = []
        async for page in self._dead(after) if state in (*_DEAD, "dead") else self._pages(state, queue, scope, after):
            views = await self.views([job_id for job_id in page if scope in (None, scope_of(job_id))])
            shown = [v for v in views if state in (None, v.state, "dead" if v.state in _DEAD else None)]
            found += [v for v in shown if queue in (None, v.queue) and task in (None, v.task)]
            if len(found) >= limit:
                break
        return found[:limit]

    async def _dead(self, after: str) -> AsyncIterator[list[str]]:
        """Dead letters have an index of their ids."""
        while True:
            least = f"({after}" if after else "-"
            page = [
                job_id.decode() for job_id in await self._link.ask("ZRANGEBYLEX", self._prefix + "letters", least, "+", "LIMIT", 0, PAGE)
            ]
            if not page:
                return
            yield page
            after = page[-1]

    async def _pages(self, state: Shown | None, queue: str | None, scope: str | None, after: str) -> AsyncIterator[list[str]]:
        ids = [job_id for job_id in await self._ids(state, queue) if job_id > after and scope in (None, scope_of(job_id))]
        heapq.heapify(ids)
        while ids:
            yield [heapq.heappop(ids) for _ in range(min(PAGE, len(ids)))]

    async def _ids(self, state: Shown | None, queue: str | None) -> list[str]:
        """Those that may be in that state, each once."""
        ids: set[bytes] = set()
        if state in (None, "open"):
            for lane in await self._link.ask("SMEMBERS", self._prefix + "lanes"):
                if queue is None or lane[1:] == queue.encode():
                    members = await self._scan("ZSCAN", f"{self._prefix}q:{lane.decode()}", 2)
                    ids.update(member[16:] for member in members)
                    ids.update(await self._bundled(f"{self._prefix}g:{lane.decode()}"))
        if state in (None, "leased"):
            ids.update(await self._scan("HSCAN", self._prefix + "held", 2))
        if state is None:
            ids.update(await self._scan("ZSCAN", self._prefix + "letters", 2))
        if state is None or state in ("succeeded", "cancelled", "expired"):
            for together in await self._scan("ZSCAN", self._prefix + "expire", 2):
                ids.update(together.split(b"\n"))
        return [job_id.decode() for job_id in ids if job_id]  # `held` has a field without a name

    async def _bundled(self, key: str) -> list[bytes]:
        """In order: who claims takes from the front, and puts back what is left of a member no further to it."""
        found, least, before, asked = list[bytes](), b"-inf", b"", BUNDLES
        while True:
            some = await self._link.ask("ZRANGEBYSCORE", key, least, "+inf", "WITHSCORES", "LIMIT", 0, asked)
            for member, due in zip(some[::2], some[1::2], strict=True):
                if due != least:
                    least, before = due, b""
                if member[:16] > before:
                    found += member[16:].split(b"\n")
                    before = member[:16]
            if len(some) < 2 * asked:
                return found
            asked = some[1::2].count(least) + BUNDLES  # those of `least` come again

    async def _scan(self, command: str, key: str, step: int) -> list[bytes]:
        cursor, found = b"0", list[bytes]()
        while True:
            cursor, some = await self._link.ask(command, key, cursor, "COUNT", 1000)
            found += some[::step]
            if cursor == b"0":
                return found
