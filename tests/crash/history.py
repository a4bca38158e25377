"""Judges a crash run by what was written down. Pure: records in, broken promises out, each named by its invariant.

The ledger has a row per final commit, written in the commit's own transaction and without a unique constraint, so a second
commit shows. `acked` is what clients were promised, `invoked` what they may have sent. A run in which the faults did not
bite proves nothing, and is refused as vacuous.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from msgspec import Struct

from tests.crash.records import Ack, Boot, Entry, Fault, Invoke, Start, of


class Row(Struct, frozen=True):
    """A final commit: the job, and the lease that committed it."""

    id: str
    lease: str


class History(Struct, frozen=True):
    entries: list[Entry]
    ledger: list[Row]
    states: dict[str, str]  # id -> how the store says it ended
    fenced: int = 0  # commits that workers say were refused


class Broken(Struct, frozen=True):
    invariant: str
    what: str


class Least(Struct, frozen=True):
    """What a run must have seen to prove anything."""

    kills: int  # that interrupted work in flight
    stops: int
    fenced: int
    reruns: int
    unsent: int = 0  # client calls that a kill cut off between the invocation and the acknowledgement


class Summary(Struct, frozen=True):
    jobs: int
    starts: int
    reruns: int
    held_at_faults: int
    biting_kills: int
    stops: int
    fenced: int
    unacked: int


def judge(history: History) -> list[Broken]:
    """Every promise that was broken; empty: none."""
    return [*_commits(history), *_starts(history), *_leases(history), *_reruns(history)]


def vacuous(history: History, least: Least) -> list[str]:
    """Why this run proves nothing; empty: it proves something."""
    seen = summary(history)
    pairs = {
        "kills that interrupted work": (seen.biting_kills, least.kills),
        "stops longer than the lease": (seen.stops, least.stops),
        "fenced commits": (seen.fenced, least.fenced),
        "reruns": (seen.reruns, least.reruns),
        "invocations without an acknowledgement": (seen.unacked, least.unsent),
    }
    return [f"only {got} {what}, {wanted} are needed" for what, (got, wanted) in pairs.items() if got < wanted]


def summary(history: History) -> Summary:
    starts, faults = of(Start, history.entries), of(Fault, history.entries)
    attempts = [tuple(sorted(e.ids)) for e in of(Invoke, history.entries)]
    acks = [tuple(sorted(e.ids)) for e in of(Ack, history.entries)]
    return Summary(
        jobs=len({r.id for r in history.ledger}),
        starts=len(starts),
        reruns=len(starts) - len({s.id for s in starts}),
        held_at_faults=sum(f.held for f in faults),
        biting_kills=sum(1 for f in faults if f.kind == "kill" and _interrupted(history, f.pid)),
        stops=sum(1 for f in faults if f.kind == "stop"),
        fenced=history.fenced,
        unacked=(Counter(attempts) - Counter(acks)).total(),
    )


def _commits(history: History) -> list[Broken]:
    invoked, acked = _ids(Invoke, history), _ids(Ack, history)
    rows = Counter(r.id for r in history.ledger)
    broken = [Broken("I1", f"{i} was acknowledged and has no final commit") for i in sorted(acked - rows.keys())]
    broken += [Broken("I1", f"{i} is {state} in the end") for i, state in history.states.items() if state != "succeeded"]
    broken += [Broken("I1", f"{i} has a final commit and is unknown to the store") for i in rows.keys() - history.states.keys()]
    broken += [Broken("I3", f"{i} was committed {n} times") for i, n in rows.items() if n > 1]
    broken += [Broken("I4", f"{i} was committed and never sent") for i in sorted(rows.keys() - invoked)]
    return broken


def _starts(history: History) -> list[Broken]:
    invoked, started = _ids(Invoke, history), {s.id for s in of(Start, history.entries)}
    broken = [Broken("I4", f"{i} ran and was never sent") for i in sorted(started - invoked)]
    broken += [Broken("I2", f"{i} was committed and never ran") for i in sorted({r.id for r in history.ledger} - started)]
    return broken


def _leases(history: History) -> list[Broken]:
    """The newest claim commits, and no two claims have one fence."""
    workers = {b.pid: b.worker for b in of(Boot, history.entries)}
    newest: dict[str, Start] = {}
    fences: defaultdict[str, set[int]] = defaultdict(set)
    broken: list[Broken] = []
    for s in of(Start, history.entries):
        if s.fence in fences[s.id]:
            broken.append(Broken("I5", f"{s.id} ran twice under fence {s.fence}"))
        fences[s.id].add(s.fence)
        if s.id not in newest or s.fence > newest[s.id].fence:
            newest[s.id] = s
    for row in history.ledger:
        last = newest.get(row.id)
        if last is not None and workers.get(last.pid) != row.lease.partition("/")[0]:
            broken.append(Broken("I6", f"{row.id} was committed under {row.lease}, but claimed later by {workers.get(last.pid)}"))
    return broken


def _reruns(history: History) -> list[Broken]:
    seen = summary(history)
    if seen.reruns > seen.held_at_faults:
        return [Broken("reruns", f"{seen.reruns} attempts ran again, but the victims held {seen.held_at_faults} only")]
    return []


def _interrupted(history: History, pid: int) -> int:
    """How many jobs that process had started and could not commit."""
    worker = next((b.worker for b in of(Boot, history.entries) if b.pid == pid), None)
    done = {r.id for r in history.ledger if r.lease.partition("/")[0] == worker}
    return sum(1 for s in of(Start, history.entries) if s.pid == pid and s.id not in done)


def _ids(kind: type[Invoke | Ack], history: History) -> set[str]:
    found: Sequence[Invoke | Ack] = of(kind, history.entries)
    return {i for e in found for i in e.ids}
