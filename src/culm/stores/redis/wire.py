"""Commits as the scripts read them: columns for a batch of plain ones, and a list of words for any other.

Plain is: it ends a first attempt whose row this process knows, or sends new roots, and nothing else. If the server finds that
one of them is not as plain as it looked, it writes nothing, and the same batch goes the general way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from culm.commit import Commit, Committed
from culm.outcome import DEAD, ENDINGS, FINAL, Outcome, Released, Retried, Snoozed, Suspended, encode_outcome
from culm.stores.redis.records import MAX_PLACES, tail

Word: TypeAlias = bytes | str | int

KIND: dict[type[Outcome], int] = {**{kind: n for n, kind in enumerate(ENDINGS, 1)}, Retried: 6, Snoozed: 7, Suspended: 8, Released: 9}
_ANSWERS: dict[int, Committed] = {ord("a"): "applied", ord("l"): "lease_lost", ord("c"): "conflict"}


def answers(letters: bytes) -> list[Committed]:
    if letters.count(b"a") == len(letters):
        return ["applied"] * len(letters)
    return [_ANSWERS[letter] for letter in letters]


Place: TypeAlias = tuple[str, bytes]  # of a job that is held: its queue, its `n`


class Leases:
    """What this process claimed, as far as a plain end needs it."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, Place]] = {}  # lease -> job id

    def learn(self, lease: str, places: dict[str, Place]) -> None:
        self._places[lease] = places

    def under(self, lease: str) -> dict[str, Place]:
        return self._places.get(lease, {})

    def forget(self, commits: Sequence[Commit]) -> None:
        """These attempts ended, or are another's."""
        places = self._places
        for commit in commits:
            fence = commit.fence
            if fence is not None and commit.outcome is not None and (known := places.get(fence.lease)) is not None:
                known.pop(fence.job_id, None)
                if not known:
                    del places[fence.lease]


class _Group:
    """Ends of one lease in one queue: either all are kept, or none is."""

    __slots__ = ("ids", "keeps", "ns", "values")

    def __init__(self) -> None:
        self.ids: list[Word] = []
        self.ns: list[Word] = []
        self.keeps: list[Word] = []
        self.values: list[Word] = []


def finishing(commits: Sequence[Commit], leases: Leases, ledger: str) -> list[Word] | None:
    """The words of finish.lua behind the batch's number; None: they are not all plain ends."""
    groups: dict[tuple[str, str, bool], _Group] = {}
    lease, known = "", dict[str, Place]()
    for c in commits:
        fence, outcome = c.fence, c.outcome
        if fence is None or c.send or c.emit or c.triggers or c.records or c.cancel or not isinstance(outcome, FINAL):
            return None
        if fence.lease != lease:
            lease = fence.lease
            known = leases.under(lease)
        place = known.get(fence.job_id)
        if place is None:
            return None
        buried = type(outcome) in DEAD
        gone = not c.keep_ms and not buried
        key = (lease, place[0], gone)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group()
        group.ids.append(fence.job_id)
        group.ns.append(place[1])
        if not gone:
            group.keeps.append("" if buried else c.keep_ms)
            group.values.append(b"F%d 1 0 1 0\n%b" % (KIND[type(outcome)], encode_outcome(outcome)))
    words: list[Word] = [ledger, len(commits)]
    for (of, queue, gone), group in groups.items():
        if len(set(group.ids)) < len(group.ids):
            return None
        words += (of, queue, "1" if gone else "", len(group.ids), *group.ids, *group.ns, *group.keeps, *group.values)
    return words


def sending(commits: Sequence[Commit], prefix: str) -> list[Word] | None:
    """The words of send.lua behind the batch's number; None: they do not all send new roots."""
    ids: list[Word] = []
    keys: list[Word] = []
    tails: list[Word] = []
    lanes: dict[tuple[str, int], list[Word]] = {}
    for c in commits:
        if c.fence is not None or c.emit or c.triggers or c.records or c.cancel:
            return None
        for job in c.send:
            if "~" in job.id or job.topic:
                return None
            place = len(ids)
            ids.append(job.id)
            keys.append(f"{prefix}j:{job.id}")
            tails.append(tail(job, place))
            after = "-" if job.after_ms is None else job.after_ms
            lanes.setdefault((job.queue, job.priority), []).extend((after, job.at_ms or 0, f"{place:04x}{job.id}"))
    if not ids or len(ids) > MAX_PLACES or len(set(ids)) < len(ids):
        return None
    words: list[Word] = [len(commits), len(ids), *keys, *tails, len(lanes)]
    for (queue, priority), entries in lanes.items():
        words += (f"{priority}{queue}", queue, len(entries) // 3, *entries)
    words += ids
    return words


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
            words += (job.id, job.task, job.queue, job.priority, after, job.at_ms or 0, job.keep_ms, job.topic, tail(job))
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
