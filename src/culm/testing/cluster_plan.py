"""What happens in one run, as values, drawn from the seed before anything runs: who sends what and when, and what goes wrong.

Durations are short (a lease is 900 ms), so that a run takes milliseconds; what matters is their order: heartbeats fall within a
lease, stalls and outages may outlast it, and some jobs take longer than one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from culm.outcome import Ending
from culm.testing.cluster_tasks import TIMES
from culm.testing.faults import Crash
from culm.testing.faults import Plan as Faults
from culm.testing.virtual_loop import START_S

LEASE_MS, BEAT_MS, POLL_MS, GRACE_MS = 900, 300, 400, 150
HEAL_MS = 1_600  # from here on nothing goes wrong any more
LAST_SEND_MS = 600

OK: tuple[Ending, ...] = ("succeeded",)


class Spec(Struct, frozen=True, kw_only=True):
    """A job that a client sends."""

    id: str
    task: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    may: tuple[Ending, ...] = OK  # how it may end, if nobody cancels it
    attempts: int | None = 1  # which attempt ends it; None: that depends
    starts: bool = True  # unless cancelled or expired
    delay_ms: int = 0
    at_ms: int = 0


class Send(Struct, frozen=True):
    at_ms: int
    client: int
    jobs: tuple[Spec, ...]  # one: enqueue; several: enqueue_many


class Cancel(Struct, frozen=True):
    at_ms: int
    client: int
    job_id: str


class Watch(Struct, frozen=True):
    """A client that awaits the result."""

    at_ms: int
    client: int
    job_id: str


Blow: TypeAlias = Literal["kill", "stall", "stop", "outage", "kill client"]


class Strike(Struct, frozen=True):
    """What goes wrong, and with whom of the living."""

    at_ms: int
    what: Blow
    whom: int
    for_ms: int  # a stall, an outage; else until a new worker takes its place


class Plan(Struct, frozen=True, kw_only=True):
    seed: int
    workers: int
    concurrency: int
    sends: tuple[Send, ...]
    cancels: tuple[Cancel, ...]
    watches: tuple[Watch, ...]
    strikes: tuple[Strike, ...]
    faults: Faults
    crashes: tuple[Crash | None, ...]  # of the first workers

    @property
    def specs(self) -> dict[str, list[Spec]]:
        """By id: several share one where the plan sends an id again."""
        found: dict[str, list[Spec]] = {}
        for send in self.sends:
            for spec in send.jobs:
                found.setdefault(spec.id, []).append(spec)
        return found


CLIENTS = 2


def draw(seed: int) -> Plan:
    """The run of that seed."""
    rng = Random(seed)
    specs = [_spec(rng, f"j{i}") for i in range(rng.randint(4, 7))]
    sends = _sends(rng, specs)
    return Plan(
        seed=seed,
        workers=rng.randint(2, 3),
        concurrency=rng.randint(1, 3),
        sends=tuple(sends),
        cancels=tuple(_cancels(rng, specs)),
        watches=tuple(
            Watch(rng.randrange(1_500), rng.randrange(CLIENTS), s.id) for s in specs if s.options.get("keep") != 0 and rng.random() < 0.3
        ),
        strikes=tuple(_strikes(rng)),
        faults=_faults(rng),
        crashes=tuple(_crash(rng) for _ in range(3)),
    )


# -- jobs ------------------------------------------------------------------------------------------------------------------------


def _ms(rng: Random) -> int:
    """How long an attempt takes: mostly short, sometimes longer than a lease."""
    return rng.choice((0, 0, 5, 20, 100, 300, 700, 1_300, 1_300))


def _plain(rng: Random, i: str) -> Spec:
    if rng.random() < 0.4:  # gone with its commit: only a store that knows what it has answered does not run it again
        return Spec(id=i, task="plain", args=(rng.choice((0, 0, 5, 20)),), options={"keep": 0})
    options = {"priority": rng.randrange(10)} if rng.random() < 0.3 else {}
    return Spec(id=i, task="plain", args=(_ms(rng),), options=options)


def _flaky(rng: Random, i: str) -> Spec:
    fails = rng.randint(0, TIMES + 1)
    return Spec(
        id=i,
        task="flaky",
        args=(rng.choice((0, 20, 200)), fails),
        attempts=min(fails, TIMES) + 1,
        may=OK if fails <= TIMES else ("failed",),
    )


def _slow(rng: Random, i: str) -> Spec:
    times = rng.randint(1, TIMES + 1)
    return Spec(
        id=i,
        task="slow",
        args=(9_000, times),  # longer than any stall: the timeout comes first
        options={"timeout": 0.2},
        attempts=min(times, TIMES) + 1,
        may=OK if times <= TIMES else ("failed",),
    )


def _fork(rng: Random, i: str) -> Spec:
    how = rng.choice(("topic", "topic", "late", "late", "facts", "facts", "both", "both", "race", "timed"))
    return Spec(id=i, task="fork", args=(rng.randint(2, 4), rng.choice((0, 20, 100, 300)), how))


def _chain(rng: Random, i: str) -> Spec:
    return Spec(id=i, task="chain", args=(rng.randint(1, 3), rng.choice((0, 20, 200))))


def _delayed(rng: Random, i: str) -> Spec:
    ms = rng.randint(50, 900)
    if rng.random() < 0.4:
        at_ms = round(START_S * 1000) + ms
        return Spec(id=i, task="plain", args=(0,), options={"at": datetime.fromtimestamp(at_ms / 1000, tz=UTC)}, at_ms=at_ms)
    return Spec(id=i, task="plain", args=(rng.choice((0, 50)),), options={"delay": ms / 1000}, delay_ms=ms)


def _expiring(rng: Random, i: str) -> Spec:
    return Spec(
        id=i, task="plain", args=(_ms(rng),), options={"expires": rng.choice((0.05, 0.2, 0.6))}, may=("succeeded", "expired"), attempts=None
    )


def _deadline(rng: Random, i: str) -> Spec:
    """Some end in time, others cannot."""
    ms = rng.choice((50, 2_500))
    may: tuple[Ending, ...] = ("succeeded", "expired") if ms < 500 else ("expired",)
    return Spec(id=i, task="plain", args=(ms,), options={"deadline": 0.5}, may=may, attempts=None)


def _rare(rng: Random, i: str) -> Spec:
    return Spec(id=i, task="rare", args=(_ms(rng),))


def _stubborn(rng: Random, i: str) -> Spec:
    return Spec(id=i, task="stubborn", args=(rng.choice((20, 700, 1_300, 1_300)),))


def _typed(_: Random, i: str) -> Spec:
    return Spec(id=i, task="typed", args=("not a number",), may=("failed",), starts=False)


_KINDS: tuple[tuple[int, Callable[[Random, str], Spec]], ...] = (
    (6, _plain), (5, _flaky), (2, _slow), (6, _fork), (3, _chain), (3, _delayed), (2, _expiring), (1, _deadline),
    (2, _stubborn), (1, _typed),
)  # fmt: skip
_BAG = tuple(kind for weight, kind in _KINDS for _ in range(weight))
RARE = 0.02  # per job: a worker that does not know a task leaves it to others for five seconds, which makes long runs


def _spec(rng: Random, job_id: str) -> Spec:
    return _rare(rng, job_id) if rng.random() < RARE else rng.choice(_BAG)(rng, job_id)


def _sends(rng: Random, specs: list[Spec]) -> list[Send]:
    sends: list[Send] = []
    left = list(specs)
    while left:
        n = min(len(left), rng.choice((1, 1, 1, 2, 3)))
        sends.append(Send(rng.randrange(LAST_SEND_MS), rng.randrange(CLIENTS), tuple(left[:n])))
        del left[:n]
    for spec in specs:
        if spec.options.get("keep") != 0 and rng.random() < 0.15:  # the same id once more: from a client that does not know, or a thief
            again = spec if rng.random() < 0.7 or spec.task == "stubborn" else Spec(id=spec.id, task="stubborn", args=(0,))
            sends.append(Send(rng.randrange(HEAL_MS), rng.randrange(CLIENTS), (again,)))
    return sends


def _cancels(rng: Random, specs: list[Spec]) -> list[Cancel]:
    return [
        Cancel(rng.randrange(LAST_SEND_MS + 300), rng.randrange(CLIENTS), s.id)
        for s in specs
        if rng.random() < (0.5 if s.task == "stubborn" else 0.2)
    ]


# -- what goes wrong -------------------------------------------------------------------------------------------------------------


def _strikes(rng: Random) -> list[Strike]:
    found = []
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 3))):
        what: Blow = rng.choice(("kill", "kill", "stall", "stall", "stop", "stop", "stop", "outage", "kill client"))
        for_ms = rng.choice((1_000, 1_300, 2_200)) if what == "stall" else rng.randint(100, 1_200)
        found.append(Strike(rng.randrange(100, HEAL_MS - 300), what, rng.randrange(6), for_ms))
    return found


def _faults(rng: Random) -> Faults:
    match rng.randrange(5):
        case 0:
            return Faults(slow_ms=0)
        case 1 | 2:
            return Faults(before=0.03, after=0.06, slow=0.1, slow_ms=100)
        case 3:
            return Faults(before=0.1, after=0.15, slow=0.2, slow_ms=300)
        case _:
            return Faults(before=0.02, after=0.25, slow=0.05, slow_ms=1_500)


def _crash(rng: Random) -> Crash | None:
    if rng.random() < 0.85:
        return None
    return Crash(rng.randint(1, 40), rng.choice(("before", "after")))
