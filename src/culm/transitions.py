"""A job's life, as data: what each input does to a job in each state. The documentation shows it; the property tests are generated from it.

A job is absent, open, leased or finished, and has a `due`. It can be claimed when it is not finished and `due <= now`.
`due = None` means that only a release makes it claimable: below, "waiting". "Overdue" is: leased, but the lease ran out.

Each row reads: this input, to a job in this state, leaves it in that state with that due, and is answered so.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

At: TypeAlias = Literal["absent", "open", "waiting", "leased", "overdue", "finished"]  # waiting: open, due None
Input: TypeAlias = Literal[
    "send", "send later", "send waiting", "send other task", "release", "claim", "extend", "extend other lease", "cancel",
    "succeed", "fail", "lose", "expire", "cancelled", "retry", "snooze", "suspend", "suspend for", "give back",
    "checkpoint", "succeed other lease",
]  # fmt: skip
Due: TypeAlias = Literal["now", "now + after", "lease end", "as before the claim", "none", "same"]


class Transition(Struct, frozen=True):
    given: Input
    at: At
    to: At
    due: Due
    answer: str
    note: str = ""


def _all_refused(at: At, due: Due = "same") -> list[Transition]:
    fenced: tuple[Input, ...] = (
        "succeed", "fail", "lose", "expire", "cancelled", "retry", "snooze", "suspend", "suspend for", "give back",
        "checkpoint", "succeed other lease",
    )  # fmt: skip
    return [Transition(i, at, at, due, "lease_lost") for i in fenced] + [
        Transition("extend", at, at, due, "lost"),
        Transition("extend other lease", at, at, due, "lost"),
    ]


def _ended(at: At) -> list[Transition]:
    """What the holder of the lease may do, in time or late: until somebody else claims the job, the lease holds."""
    return [
        *(Transition(i, at, "finished", "none", "applied") for i in ("succeed", "fail", "lose", "expire", "cancelled")),
        Transition("retry", at, "open", "now + after", "applied"),
        Transition("snooze", at, "open", "now + after", "applied", "attempt given back"),
        Transition("suspend", at, "waiting", "none", "applied", "attempt given back; due now if released meanwhile"),
        Transition("suspend for", at, "open", "now + after", "applied", "attempt given back; due now if released meanwhile"),
        Transition("give back", at, "open", "as before the claim", "applied", "attempt given back"),
        Transition("checkpoint", at, at, "same", "applied"),
        Transition("succeed other lease", at, at, "same", "lease_lost"),
        Transition("extend", at, "leased", "lease end", "held", "cancelled, if that was asked"),
        Transition("extend other lease", at, at, "same", "lost"),
        Transition("send", at, at, "same", "applied", "nothing: same id, same job"),
        Transition("send other task", at, at, "same", "conflict"),
        Transition("release", at, at, "same", "applied", "remembered as `again`"),
        Transition("cancel", at, at, "same", "applied", "flagged; a success that is already committing wins"),
    ]


TABLE: tuple[Transition, ...] = (
    Transition("send", "absent", "open", "now", "applied"),
    Transition("send later", "absent", "open", "now + after", "applied"),
    Transition("send waiting", "absent", "waiting", "none", "applied"),
    Transition("release", "absent", "absent", "none", "conflict", "a trigger must name a job that exists or comes with it"),
    Transition("cancel", "absent", "absent", "none", "applied", "tombstone for an hour: a later send is born cancelled"),
    *_all_refused("absent", "none"),
    Transition("send", "open", "open", "same", "applied", "nothing: same id, same job"),
    Transition("send other task", "open", "open", "same", "conflict"),
    Transition("release", "open", "open", "now", "applied"),
    Transition("claim", "open", "leased", "lease end", "granted", "attempt + 1"),
    Transition("cancel", "open", "finished", "none", "applied", "cancelled, and its joins hear of it"),
    *_all_refused("open"),
    Transition("send", "waiting", "waiting", "same", "applied", "nothing: same id, same job"),
    Transition("send other task", "waiting", "waiting", "same", "conflict"),
    Transition("release", "waiting", "open", "now", "applied"),
    Transition("claim", "waiting", "waiting", "none", "nothing"),
    Transition("cancel", "waiting", "finished", "none", "applied", "cancelled, and its joins hear of it"),
    *_all_refused("waiting"),
    Transition("claim", "leased", "leased", "same", "nothing"),
    *_ended("leased"),
    Transition("claim", "overdue", "leased", "lease end", "granted", "expiries + 1, same attempt; if cancelled: finished"),
    *_ended("overdue"),
    Transition("send", "finished", "finished", "none", "applied", "nothing, while it is kept"),
    Transition("send other task", "finished", "finished", "none", "conflict"),
    Transition("release", "finished", "finished", "none", "applied", "nothing"),
    Transition("claim", "finished", "finished", "none", "nothing"),
    Transition("cancel", "finished", "finished", "none", "applied", "nothing"),
    *_all_refused("finished", "none"),
)  # fmt: skip
