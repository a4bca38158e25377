"""Commits as the scripts read them: columns for a batch of plain ones, and a list of words for any other.

Plain is: it ends a first attempt whose row this process knows, or sends new roots, and nothing else. If the server finds that
one of them is not as plain as it looked, it writes nothing, and the same batch goes the general way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import hiredis
import msgspec

from culm.commit import Commit, Committed
from culm.job import Job, encode_job
from culm.outcome import DEAD, ENDINGS, Outcome, Released, Retried, Snoozed, Suspended, encode_outcome
from culm.stores.redis.records import LARGE, MAX_PLACES, PLACES, Likeness, head_of, likeness, tail

Word: TypeAlias = bytes | str | int
pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command

_NO_GROUP: Word = -1  # kept for no time that there is
MOST_TOLD = 4_096  # bytes of an outcome that is told; a larger one is looked for

KIND: dict[type[Outcome], int] = {**{kind: n for n, kind in enumerate(ENDINGS, 1)}, Retried: 6, Snoozed: 7, Suspended: 8, Released: 9}
_FINAL_KIND: dict[type[Outcome | None], int] = {kind: n for n, kind in enumerate(ENDINGS, 1)}
_ENDED = {n: b"F%d 1 0 1 0\n" % n for n in _FINAL_KIND.values()}  # what precedes an outcome: a first attempt, whose row was plain
_DEAD_KINDS = frozenset(n for n, kind in enumerate(ENDINGS, 1) if kind in DEAD)
_ANSWERS: dict[int, Committed] = {ord("a"): "applied", ord("l"): "lease_lost", ord("c"): "conflict"}


_encode = msgspec.msgpack.Encoder().encode


def answers(letters: bytes) -> list[Committed]:
    if letters.count(b"a") == len(letters):
        return ["applied"] * len(letters)
    return [_ANSWERS[letter] for letter in letters]


class Granted:
    """What a claim was granted, as far as a plain end needs it.

    Args:
        queues: in which each job lies, by its id; only of those whose row is plain.
        channels: where to tell of their ends, of all or by their ids; "": nowhere.
        left: how many have not ended.
    """

    __slots__ = ("channels", "left", "queues")

    def __init__(self, queues: dict[str, str], channels: str | dict[str, str], left: int) -> None:
        self.queues = queues
        self.channels = channels
        self.left = left


_UNKNOWN = Granted({}, "", 0)


class Leases:
    """What this process claimed and has not ended."""

    def __init__(self) -> None:
        self._granted: dict[str, Granted] = {}

    def learn(self, lease: str, granted: Granted) -> None:
        self._granted[lease] = granted

    def under(self, lease: str) -> Granted:
        return self._granted.get(lease, _UNKNOWN)

    def forget(self, commits: Sequence[Commit]) -> None:
        """These attempts ended, or are another's. A lease goes with its last; one too soon costs only the columns."""
        ended = [c.fence.lease for c in commits if c.fence is not None and c.outcome is not None]
        if not ended:
            return
        for lease, n in Counter(ended).items():
            granted = self._granted.get(lease)
            if granted is not None:
                granted.left -= n
                if granted.left <= 0:
                    del self._granted[lease]


class _Group:
    """Ends of one lease in one queue that are kept equally long."""

    __slots__ = ("ids", "values")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.values: list[bytes] = []


def finishing(commits: Sequence[Commit], leases: Leases, ledger: str) -> list[Word] | None:
    """The words of finish.lua behind the batch's number; None: they are not all plain ends."""
    if commits and commits[0].outcome is None:
        return None  # at once: a send that is alone pays for whatever is made below
    groups: dict[tuple[str, str, Word], _Group] = {}
    lease, queue, keep, granted, group = "", "", _NO_GROUP, _UNKNOWN, _Group()
    for c in commits:
        fence, outcome = c.fence, c.outcome
        kind = _FINAL_KIND.get(type(outcome))
        if fence is None or kind is None or c.send or c.emit or c.triggers or c.records or c.cancel:
            return None
        job_id, for_ms = fence.job_id, c.keep_ms if kind not in _DEAD_KINDS else ""
        if new := fence.lease != lease:
            lease = fence.lease
            granted = leases.under(lease)
        lies_in = granted.queues.get(job_id)
        if lies_in is None:
            return None
        if new or for_ms != keep or lies_in != queue:
            queue, keep = lies_in, for_ms
            group = groups.setdefault((lease, queue, keep), _Group())
        group.ids.append(job_id)
        if keep != 0:
            group.values.append(_ENDED[kind] + encode_outcome(outcome))
    if len(set(chain.from_iterable(some.ids for some in groups.values()))) < len(commits):
        return None
    messages = _messages(groups, leases)
    words: list[Word] = [ledger, len(commits), len(messages)]
    for channel, message in messages.items():
        words += channel, _encode(message)
    for place, some in groups.items():
        words += (*place, len(some.ids), *some.ids, *some.values)
    return words


def _messages(groups: dict[tuple[str, str, Word], _Group], leases: Leases) -> dict[str, list[str | bytes | None]]:
    """What is told where: an id, and what `outcomes` holds of it (b"": it is gone; None: that is large), and so on."""
    messages: dict[str, list[str | bytes | None]] = {}
    for (lease, _, _), group in groups.items():
        channels = leases.under(lease).channels
        if not channels:
            continue
        values = [value if len(value) < MOST_TOLD else None for value in group.values] or [b""] * len(group.ids)
        for job_id, value in zip(group.ids, values, strict=True):
            if channel := channels if isinstance(channels, str) else channels.get(job_id):
                messages.setdefault(channel, []).extend((job_id, value))
    return messages


class _Lot:
    """New jobs that are alike: their records have one head, and they go to one lane."""

    __slots__ = ("head", "ids", "records")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.ids: list[str] = []
        self.records: list[Word] = []


class Sending(NamedTuple):
    """A script that sends new roots."""

    script: str
    ids: Sequence[str]
    words: list[Word]  # behind the batch's number


def sending(commits: Sequence[Commit], channel: str = "", *, fresh: bool = False) -> Sending | None:
    """How to send them; None: they do not all send new roots.

    Args:
        channel: where to tell of their ends; "": nowhere.
        fresh: no job can have one of these ids yet.
    """
    if len(commits) == 1 and len(commits[0].send) == 1:
        return _sending_one(commits[0], commits[0].send[0], channel)
    lots: dict[Likeness, _Lot] = {}
    place, lot, latest = 0, _Lot(b""), None  # most jobs are like the one before
    for c in commits:
        if c.fence is not None or c.emit or c.triggers or c.records or c.cancel:
            return None
        for job in c.send:
            like = job.queue, job.task, job.topic, job.after_ms, job.at_ms, job.priority, job.keep_ms  # likeness(), not called for each
            if like != latest:
                latest, lot = like, lots.get(like) or lots.setdefault(like, _Lot(head_of(like, channel)))
            record = (PLACES[place] if place < len(PLACES) else b"%04x" % place) + lot.head + encode_job(job)
            place += 1
            if "~" in job.id or job.topic or len(record) >= LARGE:
                return None
            lot.ids.append(job.id)
            lot.records.append(record)
    ids = list(chain.from_iterable(lot.ids for lot in lots.values()))
    if not ids or place > MAX_PLACES or len(set(ids)) < place:
        return None
    words: list[Word] = ["1" if fresh else "", len(commits), place, *ids]
    for lot in lots.values():
        words += lot.records
    for (queue, _, _, after, at, priority, _), lot in lots.items():
        words += (f"{priority}{queue}", queue, "-" if after is None else after, at or 0, len(lot.ids))
    return Sending("send", ids, words)


def _sending_one(c: Commit, job: Job, channel: str) -> Sending | None:
    record = tail(job, channel)
    if not _is_plain(c, job, record):
        return None
    after: Word = "-" if job.after_ms is None else job.after_ms
    return Sending("send_one", [job.id], [job.id, record, f"{job.priority}{job.queue}", job.queue, after, job.at_ms or 0])


def _is_plain(c: Commit, job: Job, record: bytes) -> bool:
    """The commit does nothing but send that new root."""
    return not (c.emit or c.triggers or c.records or c.cancel or job.topic or c.fence is not None or "~" in job.id or len(record) >= LARGE)


def packed_one(commits: Sequence[Commit], channel: str) -> bytes | None:
    """The words of send_one.lua behind the batch's number, as they travel; None: it is not for that."""
    if len(commits) != 1 or len(commits[0].send) != 1:
        return None
    c, job = commits[0], commits[0].send[0]
    head, place = _packed(likeness(job), channel)
    record = PLACES[0] + head + encode_job(job)
    if not _is_plain(c, job, record):
        return None
    job_id = job.id.encode()
    return b"$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (len(job_id), job_id, len(record), record, place)


@lru_cache(1_000)
def _packed(like: Likeness, channel: str) -> tuple[bytes, bytes]:
    """The head of such a record, and the words behind the record."""
    queue, _, _, after, at, priority, _ = like
    return head_of(like, channel), packed_words(f"{priority}{queue}", queue, "-" if after is None else after, at or 0)


def packed_words(*words: Word) -> bytes:
    """As they travel, without how many there are."""
    return pack(words).partition(b"\r\n")[2]


def anything(commits: Sequence[Commit], ledger: str) -> list[Word]:
    """The words of commit.lua behind the batch's number."""
    words: list[Word] = [ledger, len(commits)]
    for c in commits:
        outcome = c.outcome
        words += (c.fence.job_id, c.fence.lease) if c.fence is not None else ("", "")
        words += (KIND[type(outcome)], _after(outcome), c.keep_ms, encode_outcome(outcome)) if outcome is not None else (0, 0, 0, "")
        words.append(len(c.send))
        for job in c.send:
            after = "-" if job.after_ms is None else job.after_ms
            words += (job.id, job.task, job.queue, job.priority, after, job.at_ms or 0, job.keep_ms, job.topic, tail(job, ""))
        words.append(len(c.emit))
        for event in c.emit:
            words += (event.scope, event.topic, event.key, event.value)
        words.append(len(c.triggers))
        for trigger in c.triggers:
            words += (trigger.job_id, trigger.scope, trigger.need, len(trigger.topics))
            for topic, count in trigger.topics:
                words += (topic, count)
        words.append(len(c.records))
        for record in c.records:
            words += (record.flow, record.seq, record.value)
        words += (len(c.cancel), *c.cancel)
    return words


def _after(outcome: Outcome) -> Word:
    match outcome:
        case Retried(after_ms=ms) | Snoozed(after_ms=ms) | Released(after_ms=ms):
            return ms
        case Suspended(after_ms=ms_or_none):
            return "" if ms_or_none is None else ms_or_none
        case _:
            return 0
