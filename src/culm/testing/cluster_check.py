"""Judges a run by its history alone: what was promised to clients and tasks, against what the store did and what is left in it.

Each rule looks at one promise, job by job, and is headed by the invariant that it checks (docs/architecture.md numbers them). A rule
is written for what may happen under faults: where a fault excuses something, it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from culm.job import scope_of
from culm.outcome import DEAD, ENDINGS, FINAL, Cancelled, Expired, Retried, Succeeded
from culm.stores.partitioned.place import MARK
from culm.stores.tables import Tables
from culm.testing.cluster_history import Note
from culm.testing.cluster_lives import GIVE_UP, Life, Lives, lives_of
from culm.testing.cluster_plan import LEASE_MS, Plan
from culm.testing.cluster_tasks import FIRST_MS, TIMES, token_of
from culm.testing.cluster_truth import PATIENCE_S

FOREVER_MS = 30 * 86_400_000
RETRIED = ("flaky", "slow")  # tasks with a retry policy


class Violation(AssertionError):
    """An invariant did not hold. `number` names it, `notes` are the whole history."""

    def __init__(self, number: str, what: str, *, seed: int, notes: Sequence[Note]) -> None:
        super().__init__(f"{number}: {what}; replay: python -m culm.testing.cluster {seed}")
        self.number = number
        self.seed = seed
        self.notes = notes


Rule = Callable[[Life], Iterator[str]]
RULES: list[tuple[str, Rule]] = []


def _rule(number: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES.append((number, rule))
        return rule

    return add


def check(plan: Plan, notes: Sequence[Note], tables: Sequence[Tables], *, left: Iterable[str]) -> None:
    """Raise the first Violation."""
    lives = lives_of(plan, notes, tables)
    for number, rule in RULES:
        for life in lives.by_id.values():
            for what in rule(life):
                raise Violation(number, what, seed=plan.seed, notes=notes)
    for n in notes:
        if n.what == "contradict":
            raise Violation("I3", "batch {} was answered {}, and when it was sent again {}".format(*n.more), seed=plan.seed, notes=notes)
    for number, what in (
        *_stops(lives),
        *(("I18", f"{task} goes on") for task in left),
        *(rest for part in tables for rest in _leftovers(part)),
    ):
        raise Violation(number, what, seed=plan.seed, notes=notes)


# -- tasks -----------------------------------------------------------------------------------------------------------------------


@_rule("I4")
def nothing_that_was_never_sent(life: Life) -> Iterator[str]:
    if not (life.sent or life.born_of or life.born_in_vain) and (life.row is not None or life.starts or life.finals):
        yield f"job {life.id} was never sent"
    for _, n in life.starts:
        tasks = {s.task for s in life.run.specs.get(life.id, [])} or {life.task}
        if n.more.task not in tasks:
            yield f"job {life.id} ran as {n.more.task}, and was sent as {tasks}"


@_rule("I15")
def children_of_a_commit_only(life: Life) -> Iterator[str]:
    if life.born_of and life.row is None:
        yield f"job {life.id} is missing, although {life.born_of[0].id}, which sent it, committed"
    if life.born_in_vain and not life.born_of and not life.sent and (life.row is not None or life.stored or life.starts):
        yield f"job {life.id} exists, although no attempt that sent it committed"


@_rule("I3")
def one_final_commit(life: Life) -> Iterator[str]:
    if len(life.finals) > 1:
        yield f"job {life.id} was ended {len(life.finals)} times, under {[n.lease for _, n in life.finals]}"


@_rule("I5")
def commits_under_the_newest_lease(life: Life) -> Iterator[str]:
    for at, n in life.commits:
        newest = next((c.lease for i, c in reversed(life.claims) if i < at), "")
        if n.lease != newest:
            yield f"job {life.id} was committed under {n.lease}; the newest lease was {newest or 'none'}"


@_rule("I3")
def what_was_applied_is_not_asked_again(life: Life) -> Iterator[str]:
    applied = {n.lease: at for at, n in life.commits}
    if again := [n.lease for at, n in life.fenced if applied.get(n.lease, at) < at]:
        yield f"job {life.id} was committed under {again}, and its worker did not learn it from the answer"


@_rule("I6")
def no_commit_after_the_end(life: Life) -> Iterator[str]:
    for lease in {n.lease for _, n in life.commits}:
        if sum(1 for _, n in life.commits if n.lease == lease and n.more is not None) > 1:
            yield f"job {life.id} was committed twice under {lease}"


@_rule("I5")
def one_live_lease(life: Life) -> Iterator[str]:
    ended = {n.lease: at for at, n in life.commits}
    for (_, was), (at, now) in pairwise(life.claims):
        if ended.get(was.lease, at) < at or was.lease == now.lease:
            continue
        extended = [n.more for i, n in (*life.held, *life.told) if i < at and n.lease == was.lease]
        until = max(extended, default=was.more.until_ms)
        if until > now.ms:
            yield f"job {life.id} was claimed under {now.lease} {until - now.ms} ms before the lease {was.lease} ended"


@_rule("I5")
def fences_grow(life: Life) -> Iterator[str]:
    fences = {n.lease: n.more.fence for _, n in life.starts}
    of_claims = [fences[n.lease] for _, n in life.claims if n.lease in fences]
    if any(a >= b for a, b in pairwise(of_claims)):
        yield f"the fences of job {life.id} do not grow with its claims: {of_claims}"


@_rule("I9")
def same_id_same_job(life: Life) -> Iterator[str]:
    accepted = {n.more for _, n in life.acked}
    if len(accepted) > 1:
        yield f"job {life.id} was accepted as {sorted(accepted)}"
    if life.refused and len({n.more for _, n in life.sent}) == 1 and not life.refused[0][1].more:
        yield f"job {life.id} was refused, although no other task was ever sent under its id"
    if life.row is not None and accepted and life.row.job.task not in accepted:
        yield f"job {life.id} was accepted as {accepted} and is a {life.row.job.task}"


@_rule("I10")
def cancelled_before_the_claim(life: Life) -> Iterator[str]:
    if life.cancel is None:
        return
    if life.claims and life.claims[0][0] > life.cancel:
        yield f"job {life.id} was claimed, although it had been cancelled before"
    if any(at > life.cancel for at, _ in life.held):
        yield f"job {life.id} had been cancelled, and its worker was not told"
    for at, n in life.ends:
        told = [i for i, t in life.told if i < at and t.lease == n.lease and t.ms < n.ms]  # what is said in that moment comes too late
        began = max((i for i, s in life.starts if s.lease == n.lease), default=at)
        told = [i for i in told if i > began]
        if len(told) > 1 + life.run.unheard_beats.get(n.node, 0):
            yield f"job {life.id} was told {len(told)} times to stop, and went on to its end"


@_rule("I8")
def attempts_within_the_limit(life: Life) -> Iterator[str]:
    task = life.row.job.task if life.row is not None else life.task
    limit = TIMES + 1 if task in RETRIED else 1
    most = max((n.more.attempt for _, n in life.starts), default=0)
    if most > limit:
        yield f"job {life.id} began attempt {most}; {limit} are allowed"
    spec = life.run.spec(life)
    right = (spec.attempts if spec is not None else 1) if life.cancel is None else None
    if right is not None and life.row is not None and life.row.finished and life.row.attempt != right:
        yield f"job {life.id} ended with attempt {life.row.attempt}; it should be {right}"


@_rule("I8")
def expiries_are_counted(life: Life) -> Iterator[str]:
    ended = {n.lease for _, n in life.commits}
    taken_over = 0
    for (_, was), (_, now) in pairwise(life.claims):
        taken_over += was.lease not in ended
        if now.more.expiries != taken_over:
            yield f"leases on job {life.id} ran out {taken_over} times; its claim says {now.more.expiries}"


@_rule("I32")
def leases_run_out_for_a_reason(life: Life) -> Iterator[str]:
    """Whoever lives, and reaches the store, keeps what it holds."""
    ended = {n.lease for _, n in life.commits}
    for (_, was), (_, now) in pairwise(life.claims):
        holder = life.run.holders.get(was.lease.partition("/")[0], "")
        if was.lease not in ended and holder in life.run.undisturbed:
            yield f"the lease {was.lease} on job {life.id} ran out, although {holder} had no reason; {now.lease} took the job"


@_rule("I20")
def never_early(life: Life) -> Iterator[str]:
    spec = life.run.spec(life)
    if spec is not None and life.stored is not None:
        due = max(life.stored + spec.delay_ms, spec.at_ms)
        for _, n in life.claims:
            if n.ms < due:
                yield f"job {life.id} was claimed {due - n.ms} ms early"
    retried = {n.lease for _, n in life.commits if isinstance(n.more, Retried)}
    for _, failed in life.raises:
        if failed.lease not in retried:
            continue  # stale: what it came to was refused
        attempt = next(n.more.attempt for _, n in life.starts if n.lease == failed.lease)
        for _, n in life.starts:
            if n.more.attempt == attempt + 1 and n.ms < failed.ms + FIRST_MS * 2 ** (attempt - 1) // 2:
                yield f"attempt {attempt + 1} of job {life.id} began {n.ms - failed.ms} ms after the failure"
    for at, n in life.commits:
        again = next((c for i, c in life.claims if i > at), None)
        if isinstance(n.more, Retried) and again is not None and again.ms < n.ms + n.more.after_ms:
            yield f"job {life.id} was claimed {again.ms - n.ms} ms after it was to be retried in {n.more.after_ms} ms"
    expires_ms = life.row.job.expires_ms if life.row is not None else None
    for _, n in life.starts:
        if expires_ms is not None and n.more.age_ms > expires_ms:
            yield f"job {life.id} began when it was {n.more.age_ms} ms old; it expires after {expires_ms} ms"
    if life.row is not None and isinstance(life.row.last, Expired) and life.stored is not None:
        job = life.row.job
        if life.finals and life.finals[0][1].ms < life.stored + min(job.expires_ms or FOREVER_MS, job.deadline_ms or FOREVER_MS):
            yield f"job {life.id} expired early"


@_rule("I7")
def the_result_is_the_committed_one(life: Life) -> Iterator[str]:
    row, won = life.row, life.winner
    if row is None or not row.finished:
        return
    if won is not None and isinstance(won.more, FINAL) and row.last != won.more:
        yield f"job {life.id} ended as {row.last}, and the attempt that ended it came to {won.more}"
    if won is None and not isinstance(row.last, Cancelled):
        yield f"job {life.id} ended as {row.last}, and no attempt committed that"
    if isinstance(row.last, Succeeded) and won is not None and msgspec.msgpack.decode(row.last.value) != token_of(life.id, won.lease):
        yield f"job {life.id} has the result {row.last.value!r}, and {won.lease} committed"
    for _, n in life.reads:
        if n.more.outcome != row.last:
            yield f"job {life.id} was read as {n.more.outcome}, and is {row.last}"


@_rule("I13")
def a_join_sees_its_full_set(life: Life) -> Iterator[str]:
    wanted = life.awaits
    if wanted is None:
        return
    if wanted.timeout_ms is not None:
        if life.claims and life.stored is not None and life.claims[0][1].ms < life.stored + wanted.timeout_ms:
            yield f"join {life.id} began before its timeout, and without its events"
        return
    for _, n in life.joined:
        full = sum(sorted(n.more.get(topic, ())) == sorted(keys) for topic, keys in wanted.keys.items())
        if wrong := [
            k for found in n.more.values() for k, value in found.items() if value != life.run.facts.get((scope_of(life.id), k), value)
        ]:
            yield f"join {life.id} saw another value than the first of {wrong}"
        if full < wanted.need:
            yield f"join {life.id} saw {n.more}; it should see {wanted.need} of {wanted.keys}"
    claimed = life.claims[0][0] if life.claims else 1 << 60
    ended = [at for topic, keys in wanted.keys.items() if topic.startswith("part") for k in keys for at, _ in life.run.by_id[k].finals[:1]]
    if topics_by_jobs := [keys for topic, keys in wanted.keys.items() if topic.startswith("part")]:
        before = sum(at < claimed for at in ended)
        needed = 1 if wanted.need < len(wanted.keys) else sum(map(len, topics_by_jobs))
        if life.claims and before < needed:
            yield f"join {life.id} was released after {before} of {needed} members had ended"


@_rule("I14")
def a_join_fires(life: Life) -> Iterator[str]:
    if life.awaits is not None and life.row is not None and not life.row.finished:
        yield f"join {life.id} never fired, or never ended"


@_rule("I1")
def one_terminal_state(life: Life) -> Iterator[str]:
    if not life.must_be:
        return
    if life.row is None and not life.finals:
        yield f"job {life.id} was accepted, and is lost"
    if life.row is not None and not (life.row.finished and isinstance(life.row.last, FINAL)):
        yield f"job {life.id} was accepted, and never ended: {life.row.last}"
    if life.row is None or not isinstance(life.row.last, FINAL):
        return
    ending, spec = ENDINGS[type(life.row.last)], life.run.spec(life)
    may = spec.may if spec is not None else ("succeeded", "failed") if life.task == "part" else ("succeeded",)
    if ending not in may and not (ending == "cancelled" and life.cancel is not None) and not (life.run.stalled and ending == "succeeded"):
        yield f"job {life.id} {ending}: {life.row.last}; it should have {' or '.join(may)}"


@_rule("I2")
def it_started(life: Life) -> Iterator[str]:
    spec = life.run.spec(life)
    if not life.must_be or life.starts or life.row is None or (spec is not None and not spec.starts):
        return
    if not isinstance(life.row.last, Cancelled | Expired):
        yield f"job {life.id} never started, and {ENDINGS.get(type(life.row.last), 'has not ended')}"  # type: ignore[arg-type]  # a key of it, or not


# -- what is left ----------------------------------------------------------------------------------------------------------------


def _stops(lives: Lives) -> Iterator[tuple[str, str]]:
    over: dict[str, int] = {}
    for at, n in enumerate(lives.notes):
        if n.what == "stopped":
            node, held, bitten = n.more
            over[node] = at
            failed = [bitten.get(f"{call}.before", 0) + bitten.get(f"{call}.after", 0) for call in ("commit", "claim")]
            # A call that was slow already when the stop began is given up sooner.
            given_up = max(failed) >= (1 if lives.plan.faults.slow_ms >= LEASE_MS else GIVE_UP)
            # A partition that answers later than its patience, or not at all, is left; what it granted then comes back with its lease.
            # What it granted in an answer that is missing takes it a second call, which renews the lease.
            renewals = sum(bitten.get(f"extend.{how}", 0) for how in ("slow", "before", "after"))
            given_up |= len(lives.tables) > 1 and (lives.plan.faults.slow_ms > 2 * PATIENCE_S * 1000 or failed[1] + renewals > 0)
            if held and not given_up:
                yield "I34", f"{node} stopped gracefully, and still holds {held}"
        elif n.node in over and n.what in ("start", "end"):
            yield "I34", f"{n.node} had stopped, and job {n.job} went on: {n.what}"


def _leftovers(tables: Tables) -> Iterator[tuple[str, str]]:
    if tables.leased:
        yield "I18", f"still leased: {sorted(tables.leased)}"
    if open_ := [i for i, row in tables.rows.items() if not row.finished and i != MARK]:
        yield "I18", f"still open: {open_}"
    if ready := [e for lane in tables.ready.values() for e in lane]:
        yield "I18", f"still in line: {[row.job.id for *_, row in ready]}"
    for root, scope in tables.scopes.items():
        if scope.live:
            yield "I18", f"scope {root} counts {scope.live} live jobs, and has none"
    later = tables.now() + FOREVER_MS
    tables.now = lambda: later
    tables.sweep(1_000_000)
    if kept := [i for i, row in tables.rows.items() if type(row.last) not in DEAD and i != MARK]:
        yield "I18", f"never swept: jobs {kept}"
    if tables.scopes or tables.tombstones:
        yield "I18", f"never swept: scopes {list(tables.scopes)}, tombstones {list(tables.tombstones)}"
