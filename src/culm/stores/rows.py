"""What the specification keeps of a job, of a trigger that waits, and of a scope. Plain slots: `tables.py` changes them."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from culm.commit import Trigger
from culm.job import Job
from culm.outcome import Outcome

Entry = tuple[int, int, "Row"]  # (due, n, row): the order of a lane


@dataclass(slots=True, eq=False)
class Row:
    job: Job
    n: int  # counts the sends: equal dues keep this order
    sent: int
    due: int | None  # None: only a release makes it claimable, or finished
    was_due: int | None = None  # what Released gives back
    lease: str = ""
    attempt: int = 0
    expiries: int = 0
    fence: int = 0
    again: bool = False  # released while leased
    cancelled: bool = False  # asked to stop while leased
    last: Outcome | None = None
    finished: bool = False
    sweep_at: int = 0  # when it goes, once it is finished; 0: a dead letter stays
    died: int | None = None  # when it became a dead letter; None: it is none
    replays: int = 0


class Waiting(Struct):
    trigger: Trigger
    reached: int = 0
    on: dict[str, int] = {}  # the topics that are not reached yet, and how many events reach each


class Scope(Struct):
    """What a tree of jobs has in common. Exists once anything is remembered for it, or a second job is in it."""

    live: int = 0  # unfinished jobs
    sweep_at: int = 0  # when all of it goes, if nobody lives then
    topics: dict[str, dict[str, bytes]] = {}  # topic -> key -> value
    waiting: dict[str, list[Waiting]] = {}  # topic -> the triggers that it has not reached yet
    records: dict[str, dict[int, bytes]] = {}  # flow -> seq -> value
