"""Commits as columns, which is how the functions of the schema take them, and what the server's letters mean.

A batch goes the short way if all of it is plain: ends of jobs whose grants this process knows, or sends of new roots. Else it
goes as a whole to `commit`. What this process knows is only a guess: the server has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from culm.commit import Commit, Committed, Held
from culm.job import Job, encode_job
from culm.outcome import ENDINGS, FINAL, Released, Retried, Snoozed, Suspended, encode_outcome

MOST_LEASES = 10_000  # remembered; one that is forgotten costs its jobs the longer way

Grant: TypeAlias = tuple[int, int]  # n, fence

KINDS: dict[type[Any], int] = {
    **{kind: n for n, kind in enumerate(ENDINGS, start=1)}, Retried: 6, Snoozed: 7, Suspended: 8, Released: 9
}  # fmt: skip
_ANSWERS: dict[str, Committed] = {"a": "applied", "l": "lease_lost", "c": "conflict"}


class Leases:
    """The grants that this process was given and has not ended yet."""

    def __init__(self) -> None:
        self._grants: dict[str, dict[str, Grant]] = {}
        self._gone: list[str] = []

    def learn(self, lease: str, ids: Sequence[str], ns: Sequence[int], fences: Sequence[int]) -> None:
        self._grants[lease] = dict(zip(ids, zip(ns, fences, strict=True), strict=True))
        if len(self._grants) > MOST_LEASES:
            del self._grants[next(iter(self._grants))]

    def find(self, held: Held) -> Grant | None:
        grants = self._grants.get(held.lease)
        return None if grants is None else grants.get(held.job_id)

    def forget(self, commits: Sequence[Commit], answers: Sequence[Committed]) -> None:
        """These were answered: what ended, or was lost, is not held here any more."""
        for commit, answer in zip(commits, answers, strict=True):
            fence = commit.fence
            if fence is None or answer == "conflict" or (commit.outcome is None and answer == "applied"):
                continue
            grants = self._grants.get(fence.lease)
            if grants is not None and grants.pop(fence.job_id, None) is not None and not grants:
                del self._grants[fence.lease]
                self._gone.append(fence.lease)

    def take_gone(self) -> list[str]:
        """Leases that hold nothing any more: the next call tells the server. If that is lost, they end by themselves."""
        gone, self._gone = self._gone, []
        return gone


def finishing(commits: Sequence[Commit], leases: Leases, *, ledger: bool) -> list[Any] | None:
    """What `finish_plain` takes; None: not all of them end a job that is known here, and do nothing else."""
    ids, ns, fences, ended, keep, last = [], [], [], [], [], []
    for c in commits:
        fence, outcome = c.fence, c.outcome
        if fence is None or c.send or c.emit or c.triggers or c.records or c.cancel:
            return None
        grant = leases.find(fence)
        if grant is None or not isinstance(outcome, FINAL):
            return None
        ids.append(fence.job_id)
        ns.append(grant[0])
        fences.append(grant[1])
        ended.append(KINDS[type(outcome)])
        keep.append(c.keep_ms)
        last.append(encode_outcome(outcome))
    names = [c.fence.lease for c in commits if c.fence is not None] if ledger else None
    return [names, ids, ns, fences, ended, keep, last] if ids else None


def sending(commits: Sequence[Commit]) -> list[Any] | None:
    """What `send_plain` takes; None: they are not all sends of roots that come due by themselves."""
    jobs: list[Job] = []
    for c in commits:
        if c.fence is not None or not c.send or c.outcome is not None or c.emit or c.triggers or c.records or c.cancel:
            return None
        jobs += c.send
    if not jobs or any(job.topic or job.after_ms is None or "~" in job.id for job in jobs):
        return None
    ids = [job.id for job in jobs]
    return [len(commits), min(ids), max(ids), ids, *_columns(jobs), [encode_job(job) for job in jobs]]


def _columns(jobs: Sequence[Job]) -> list[list[Any]]:
    return [
        [job.task for job in jobs],
        [job.queue for job in jobs],
        [job.priority for job in jobs],
        [job.after_ms for job in jobs],
        [job.at_ms for job in jobs],
        [job.keep_ms for job in jobs],
    ]


def anything(commits: Sequence[Commit]) -> list[Any]:
    """What `commit` takes."""
    return [*_heads(commits), *_ends_of_lists(commits), *_sends(commits), *_effects(commits)]


def _heads(commits: Sequence[Commit]) -> list[Any]:
    outcomes = [c.outcome for c in commits]
    return [
        [c.fence.job_id if c.fence is not None else None for c in commits],
        [c.fence.lease if c.fence is not None else None for c in commits],
        [0 if o is None else KINDS[type(o)] for o in outcomes],
        [o.after_ms if isinstance(o, Retried | Snoozed | Suspended | Released) else None for o in outcomes],
        [c.keep_ms for c in commits],
        [None if o is None else encode_outcome(o) for o in outcomes],
    ]


def _ends_of_lists(commits: Sequence[Commit]) -> list[list[int]]:
    return [
        _running([len(c.send) for c in commits]),
        _running([len(c.emit) for c in commits]),
        _running([len(c.triggers) for c in commits]),
        _running([len(c.records) for c in commits]),
        _running([len(c.cancel) for c in commits]),
    ]


def _running(counts: Sequence[int]) -> list[int]:
    total, found = 0, []
    for count in counts:
        total += count
        found.append(total)
    return found


def _sends(commits: Sequence[Commit]) -> list[Any]:
    jobs = [job for c in commits for job in c.send]
    return [[job.id for job in jobs], *_columns(jobs), [job.topic for job in jobs], [encode_job(job) for job in jobs]]


def _effects(commits: Sequence[Commit]) -> list[Any]:
    events = [e for c in commits for e in c.emit]
    triggers = [t for c in commits for t in c.triggers]
    topics = [topic for t in triggers for topic in t.topics]
    records = [r for c in commits for r in c.records]
    return [
        [e.scope for e in events], [e.topic for e in events], [e.key for e in events], [e.value for e in events],
        [t.job_id for t in triggers], [t.scope for t in triggers], [t.need for t in triggers], _running([len(t.topics) for t in triggers]),
        [topic for topic, _ in topics], [count for _, count in topics],
        [r.flow for r in records], [r.seq for r in records], [r.value for r in records],
        [job_id for c in commits for job_id in c.cancel],
    ]  # fmt: skip


def answers(letters: str) -> list[Committed]:
    return [_ANSWERS[letter] for letter in letters]
