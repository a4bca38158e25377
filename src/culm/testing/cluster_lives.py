"""A history, sorted by job: what clients, tasks and the store noted of each, in order, with what the plan says of it.

What a note says of the run as a whole (who stood still, who was out of reach, which value of an event came first) is gathered here, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from culm.job import scope_of
from culm.outcome import Succeeded
from culm.stores.partitioned.place import is_own
from culm.stores.rows import Row
from culm.stores.tables import Tables
from culm.testing.cluster_history import Awaits, Note
from culm.testing.cluster_plan import Plan, Spec

GIVE_UP = 3  # a worker that stops gives a commit or a claim up when it has failed so often, at the earliest

At = tuple[int, Note]  # a note and its place in the history


class Life(Struct):
    """What the history says of one job."""

    id: str
    run: Lives
    sent: list[At] = []  # by clients
    acked: list[At] = []
    refused: list[At] = []
    stored: int | None = None  # when, ms
    cancel: int | None = None  # where in the history the store heard of a cancel
    claims: list[At] = []
    commits: list[At] = []
    fenced: list[At] = []
    starts: list[At] = []
    ends: list[At] = []
    raises: list[At] = []
    finals: list[At] = []
    reads: list[At] = []
    held: list[At] = []  # answers of extensions
    told: list[At] = []  # those that said: cancelled
    joined: list[At] = []
    born_of: list[Life] = []  # committed attempts that sent it
    born_in_vain: bool = False  # an attempt that did not commit sent it
    task: str = ""  # of a child
    awaits: Awaits | None = None  # of a join
    row: Row | None = None

    @property
    def winner(self) -> Note | None:
        """The commit that ended it; None: it was cancelled while nobody held it."""
        lease = self.finals[0][1].lease if self.finals else ""
        return next((n for _, n in self.commits if n.lease == lease), None) if lease else None

    @property
    def must_be(self) -> bool:
        return bool(self.acked or self.born_of)


class Lives(Struct):
    """A whole run."""

    plan: Plan
    notes: Sequence[Note]
    tables: Sequence[Tables]  # of each partition
    specs: dict[str, list[Spec]]
    stalled: bool  # some worker stood still: what should have ended a job came late
    unheard_beats: dict[str, int]  # node -> replies to its heart that were lost, or late
    holders: dict[str, str]  # worker -> its node
    facts: dict[tuple[str, str], int]  # (scope, key) -> the value of the first committed emission
    undisturbed: set[str]  # nodes that had no reason to lose a lease
    by_id: dict[str, Life] = {}

    def life(self, job_id: str) -> Life:
        found = self.by_id.get(job_id)
        if found is None:
            found = self.by_id[job_id] = Life(job_id, self)
        return found

    def spec(self, life: Life) -> Spec | None:
        """What the plan says of the job that won its id."""
        specs = self.specs.get(life.id, [])
        task = life.row.job.task if life.row is not None else specs[0].task if specs else ""
        return next((s for s in specs if s.task == task), None)


_LISTS = {
    "send": "sent",
    "acked": "acked",
    "refused": "refused",
    "claim": "claims",
    "commit": "commits",
    "fenced": "fenced",
    "start": "starts",
    "end": "ends",
    "raise": "raises",
    "final": "finals",
    "read": "reads",
    "held": "held",
    "cancelled.": "told",
    "joined": "joined",
}


def lives_of(plan: Plan, notes: Sequence[Note], tables: Sequence[Tables]) -> Lives:
    lives = Lives(
        plan=plan,
        notes=notes,
        tables=tables,
        specs=plan.specs,
        stalled=any(n.what == "stall" for n in notes),
        unheard_beats={n.more[0]: n.more[1].get("extend.after", 0) + n.more[1].get("extend.slow", 0) for n in notes if n.what == "bitten"},
        holders={n.more[1]: n.more[0] for n in notes if n.what == "up"},
        facts=_facts(notes),
        undisturbed=_undisturbed(plan, notes),
    )
    committed = {(n.job, n.lease) for n in notes if n.what == "commit" and isinstance(n.more, Succeeded)}
    for at, n in enumerate(notes):
        if n.job:
            _enter(lives.life(n.job), at, n, committed=committed)
    for row in [row for part in tables for row in part.rows.values() if not is_own(row.job.id)]:
        lives.life(row.job.id).row = row
    return lives


def _enter(life: Life, at: int, n: Note, *, committed: set[tuple[str, str]]) -> None:
    if (name := _LISTS.get(n.what)) is not None:
        getattr(life, name).append((at, n))
    elif n.what == "stored" and life.stored is None:
        life.stored = n.ms
    elif n.what == "cancel" and life.cancel is None:
        life.cancel = at
    elif n.what == "child":
        child_id, task = n.more
        child = life.run.life(child_id)
        child.task = task
        if (n.job, n.lease) in committed:
            child.born_of.append(life)
        else:
            child.born_in_vain = True
    elif n.what == "awaits" and (n.job, n.lease) in committed:
        life.run.life(n.more.join).awaits = n.more


def _facts(notes: Sequence[Note]) -> dict[tuple[str, str], int]:
    emitted = {(n.job, n.lease): n.more for n in notes if n.what == "emit"}
    facts: dict[tuple[str, str], int] = {}
    for n in notes:
        if n.what == "commit" and isinstance(n.more, Succeeded) and (n.job, n.lease) in emitted:
            key, value = emitted[n.job, n.lease]
            facts.setdefault((scope_of(n.job), key), value)
    return facts


def _undisturbed(plan: Plan, notes: Sequence[Note]) -> set[str]:
    if plan.faults.slow_ms > 100:
        return set()  # a heart may beat too slowly
    struck = {n.more for n in notes if n.what in ("kill", "stall", "outage")}
    calm = set()
    for node, bitten in (n.more for n in notes if n.what == "bitten"):
        failed = [bitten.get(f"{call}.before", 0) + bitten.get(f"{call}.after", 0) for call in ("commit", "claim")]
        if not bitten.get("extend.before") and max(failed) < GIVE_UP and not any(b.startswith("crash") for b in bitten):
            calm.add(node)
    return calm - struck
