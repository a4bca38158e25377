"""What random histories are made of. The pools are small, so that things meet: ids, topics, keys, leases."""

from __future__ import annotations

from hypothesis import strategies as st

from culm.commit import Commit, Event, Record, Trigger
from culm.job import Job, scope_of
from culm.outcome import Cancelled, Expired, Failed, Fault, Lost, Outcome, Released, Retried, Snoozed, Succeeded, Suspended
from culm.testing.clock import START_MS

ROOTS = tuple(f"r{n}" for n in range(4))
IDS = tuple(i for root in ROOTS for i in (root, f"{root}~a", f"{root}~b"))
QUEUES = ("mail", "bulk")
CLIENTS = ("app", "w1", "w2")
CLAIMERS = ("w1", "w2")
KEEPS_MS = (3_600_000, 50, 0)
LEASES_MS = (100, 20, 20, 1_000)
STEPS_MS = (20, 100, 100, 1, 1_000, 3_600_000)

ids = st.sampled_from(IDS)

jobs = st.builds(
    Job,
    id=ids,
    task=st.sampled_from(["t"] * 9 + ["u"]),
    queue=st.sampled_from(QUEUES),
    priority=st.sampled_from([5, 5, 9]),
    after_ms=st.sampled_from([0, 0, 0, 30, None]),
    at_ms=st.sampled_from([None, None, START_MS + 120]),
    keep_ms=st.sampled_from(KEEPS_MS),
    topic=st.sampled_from(["", "ended"]),
)

events = st.builds(
    Event,
    scope=st.sampled_from([*ROOTS, ""]),
    topic=st.sampled_from(["go", "paid", "ended"]),
    key=st.sampled_from(["x", "y", "z"]),
    value=st.sampled_from([b"\x01", b"\x02"]),
)

records = st.builds(Record, flow=ids, seq=st.integers(0, 2), value=st.sampled_from([b"\x01"] * 7 + [b"\x02"]))


@st.composite
def triggers(draw: st.DrawFn) -> Trigger:
    job_id = draw(ids)
    scope = draw(st.sampled_from([scope_of(job_id), scope_of(job_id), ""]))
    facts = st.tuples(st.sampled_from(["go", "paid", "ended"]), st.integers(1, 3))
    members = st.sampled_from([(f"done/{i}", 1) for i in IDS if scope_of(i) == scope] or [("go", 1)])
    topics = draw(st.lists(facts | members, min_size=1, max_size=3, unique_by=lambda topic: topic[0]))
    return Trigger(job_id, scope, tuple(topics), draw(st.integers(1, len(topics))))


outcomes: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        *[Succeeded(b"\x01")] * 3,
        Succeeded(b"\x02"),
        Failed(Fault("E")),
        Lost("x"),
        Lost("y"),
        Cancelled("c"),
        Expired("e"),
        Retried(0, Fault("E")),
        Retried(40, Fault("E")),
        Snoozed(30),
        Suspended(),
        Suspended(200),
        Released(),
        Released(25),
    ]
)
endings = st.one_of(outcomes, st.sampled_from([Succeeded(b"\x03"), Failed(Fault("E", "m", "l"))]))


def few(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.one_of(st.just(()), st.lists(of, max_size=2).map(tuple))


def some_jobs(least: int, most: int) -> st.SearchStrategy[tuple[Job, ...]]:
    """Of different ids: whether an id that is gone with its first send comes again with its second is nobody's concern."""
    return st.lists(jobs, min_size=least, max_size=most, unique_by=lambda job: job.id).map(tuple)


effects = st.builds(
    Commit,
    keep_ms=st.sampled_from(KEEPS_MS),
    send=some_jobs(0, 2),
    emit=few(events),
    triggers=few(triggers()),
    records=few(records),
    cancel=st.one_of(*[st.just(())] * 5, ids.map(lambda i: (i,))),
)

sends = some_jobs(1, 4).map(lambda found: Commit(send=found))

# What every history begins with: something to claim, a join of jobs, and a race.
OPENING = Commit(
    send=(
        *(Job(id=root, task="t", queue="mail", keep_ms=50) for root in ROOTS),
        *(Job(id=f"{root}~a", task="t", queue="bulk", topic="ended", after_ms=10) for root in ROOTS[:3]),
        Job(id="r0~b", task="t", queue="mail", after_ms=None),
        Job(id="r1~b", task="t", queue="mail", after_ms=500),
    ),
    triggers=(
        Trigger("r0~b", "r0", (("done/r0", 1), ("ended", 1)), 2),
        Trigger("r1~b", "r1", (("go", 1), ("paid", 2)), 1),
    ),
)
