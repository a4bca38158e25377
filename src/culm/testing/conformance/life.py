"""A job's life: each row of the transition table is an exercise. Build a job in the state `at`, apply the input, look."""

from __future__ import annotations

from typing import assert_never

from culm.commit import Commit, Event, Held, Trigger
from culm.job import Job
from culm.outcome import (
    ENDINGS,
    Cancelled,
    Expired,
    Failed,
    Fault,
    Lost,
    Outcome,
    Released,
    Retried,
    Snoozed,
    Succeeded,
    Suspended,
)
from culm.store import JobView
from culm.testing.conformance.bench import LEASE_MS, Bench, Broken, expect, held
from culm.testing.conformance.suite import add
from culm.transitions import TABLE, At, Input, Transition

ID = "root"
AFTER_MS = 5_000
EXTEND_MS = 70_000
NOBODY = Held(ID, "nobody/1")
OTHER = Held(ID, "other/9")

OUTCOMES: dict[Input, Outcome] = {
    "succeed": Succeeded(b"\x07"),
    "fail": Failed(Fault("ValueError", "no")),
    "lose": Lost("three strikes"),
    "expire": Expired("too late"),
    "cancelled": Cancelled("asked to"),
    "retry": Retried(AFTER_MS, Fault("OSError")),
    "snooze": Snoozed(AFTER_MS),
    "suspend": Suspended(),
    "suspend for": Suspended(AFTER_MS),
    "give back": Released(),
}

SENT: dict[Input, Job] = {
    "send": Job(id=ID, task="t"),
    "send later": Job(id=ID, task="t", after_ms=AFTER_MS),
    "send waiting": Job(id=ID, task="t", after_ms=None),
    "send other task": Job(id=ID, task="other"),
}


async def build(bench: Bench, at: At) -> Held:
    """A job in that state, and the lease that holds it (or held it, or never did)."""
    match at:
        case "absent":
            return NOBODY
        case "open":
            await bench.send(SENT["send later"])
            return NOBODY
        case "waiting":
            await bench.send(SENT["send waiting"])
            return NOBODY
        case "leased" | "overdue" | "finished":
            await bench.send(SENT["send"])
            delivery = await bench.take(ID)
            if at == "finished":
                await bench.finish(delivery, Succeeded())
            bench.clock.advance(ms=LEASE_MS + 1 if at == "overdue" else 10)
            return held(delivery)
        case _:
            assert_never(at)


async def apply(bench: Bench, given: Input, lease: Held) -> str:
    """What the store answers."""
    match given:
        case "send" | "send later" | "send waiting" | "send other task":
            return await bench.commit(Commit(send=(SENT[given],)))
        case "release":
            await bench.do(emit=[Event(ID, "go", "now")])
            return await bench.commit(Commit(triggers=(Trigger(ID, ID, (("go", 1),), 1),)))
        case "claim":
            return "granted" if await bench.claim() else "nothing"
        case "extend":
            return (await bench.store.extend([lease], for_ms=EXTEND_MS))[0]
        case "extend other lease":
            return (await bench.store.extend([OTHER], for_ms=EXTEND_MS))[0]
        case "cancel":
            return await bench.commit(Commit(cancel=(ID,)))
        case "checkpoint":
            return await bench.commit(Commit(fence=lease))
        case "succeed other lease":
            return await bench.commit(Commit(fence=OTHER, outcome=Succeeded()))
        case _:
            return await bench.commit(Commit(fence=lease, outcome=OUTCOMES[given]))


def seen_as(view: JobView | None) -> At:
    if view is None:
        return "absent"
    if view.state == "open":
        return "waiting" if view.due_in_ms is None else "open"
    if view.state == "leased":
        return "leased" if view.due_in_ms else "overdue"
    return "finished"


def due_wanted(row: Transition, before: JobView | None) -> int | None:
    match row.due:
        case "now" | "as before the claim":
            return 0
        case "now + after":
            return AFTER_MS
        case "lease end":
            return EXTEND_MS if row.given == "extend" else LEASE_MS
        case "none":
            return None
        case "same":
            return before.due_in_ms if before is not None else None
        case _:
            assert_never(row.due)


async def walk(bench: Bench, row: Transition) -> None:
    lease = await build(bench, row.at)
    if (row.given, row.at) == ("claim", "open"):
        bench.clock.advance(ms=AFTER_MS)  # the table means one that is due
    before = await bench.store.job(ID)
    expect(seen_as(before), row.at, "the job to begin with")
    answer = await apply(bench, row.given, lease)
    after = await bench.store.job(ID)
    expect(answer, row.answer, "answered")
    expect(seen_as(after), row.to, "left")
    if after is None:
        return
    expect(after.due_in_ms, due_wanted(row, before), "due")
    counted(row, before, after)
    if row.given in OUTCOMES and row.answer == "applied":
        expect(after.last, OUTCOMES[row.given], "remembered as the last outcome")
        expect(after.lease, "", "the attempt is over")
    elif before is not None and row.to == row.at:
        expect((after.last, after.task), (before.last, before.task), "untouched")
    if row.to == "finished" and row.at != "finished":
        ending = Cancelled if row.given == "cancel" else type(OUTCOMES[row.given])
        expect(after.state, ENDINGS[ending], "ended as")  # type: ignore[index]  # only a final outcome leads here


def counted(row: Transition, before: JobView | None, after: JobView) -> None:
    """The attempt and the expiries, as the row's note says."""
    attempt, expiries = (before.attempt, before.expiries) if before is not None else (0, 0)
    if row.note.startswith("attempt + 1"):
        attempt += 1
    elif row.note.startswith("attempt given back"):
        attempt -= 1
    elif row.note.startswith("expiries + 1"):
        expiries += 1
    elif row.given in ("claim", "snooze", "suspend", "suspend for", "give back") and row.answer in ("granted", "applied"):
        raise Broken(f"the table does not say what {row.given!r} does to the attempt")
    expect((after.attempt, after.expiries), (attempt, expiries), "attempt and expiries")


def _add(row: Transition) -> None:
    async def exercise(bench: Bench) -> None:
        await walk(bench, row)

    add(f"{row.given} to a job that is {row.at} is answered {row.answer}".replace(" ", "_"), exercise)


for _row in TABLE:
    _add(_row)
