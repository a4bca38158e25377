"""What crosses partitions arrives exactly once, whoever dies, and wherever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Literal, TypeAlias

import pytest
from msgspec.structs import replace

from culm.commit import Commit, Held, Record, Trigger
from culm.job import Job
from culm.outcome import Succeeded
from culm.stores.partitioned import commits as committing
from culm.stores.partitioned.crossing import GRACE_MS, RELAY_LOOK_MS, Parcel, Split, split
from culm.stores.partitioned.outbox import Outbox
from culm.stores.partitioned.place import OUTBOX
from tests.partitioned.mortal import JOIN, ORDER, PARTITIONS, STARTED, Killed, Life, World, root_in


async def _after_a_death(dies_at: int, when: Literal["before", "after"]) -> list[str]:
    world = World()
    await world.begin()
    with pytest.raises(Killed):
        await world.live(Life(dies_at, when))
    await world.survive()
    return await world.wrong()


def _commits_of_a_life() -> int:
    async def run() -> int:
        world = World()
        await world.begin()
        commits = await world.live()
        assert await world.wrong() == []
        return commits

    return asyncio.run(run())


When: TypeAlias = Literal["before", "after"]
WHENS: tuple[When, ...] = ("before", "after")
DEATHS = [(n, when) for n in range(1, _commits_of_a_life() + 1) for when in WHENS]


def test_there_is_something_to_die_at() -> None:
    assert len(DEATHS) >= 20


@pytest.mark.parametrize(("dies_at", "when"), DEATHS)
def test_what_crosses_arrives_exactly_once_after_a_death_at_any_commit(dies_at: int, when: Literal["before", "after"]) -> None:
    assert asyncio.run(_after_a_death(dies_at, when)) == []


@pytest.fixture
def bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same commits, whose parcels are delivered after them, but are not in the outbox."""

    def without_outbox(c: Commit, name: str, partitions: int) -> Split:
        found = split(c, name, partitions)
        parts = [(place, replace(part, send=tuple(j for j in part.send if j.id != found.outbox))) for place, part in found.parts]
        return replace(found, parts=parts)

    monkeypatch.setattr(committing, "split", without_outbox)


@pytest.mark.usefixtures("bypassed")
def test_a_store_that_bypasses_the_outbox_is_caught() -> None:
    assert any(asyncio.run(_after_a_death(dies_at, when)) for dies_at, when in DEATHS)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outbox, whose deliveries have a new number each."""
    deliver, counted = Outbox.deliver, count()

    async def anew(self: Outbox, outbox: str, parcels: Sequence[Parcel]) -> list[str]:
        return await deliver(self, f"{outbox} {next(counted)}", parcels)

    monkeypatch.setattr(Outbox, "deliver", anew)


@pytest.mark.usefixtures("forgetful")
def test_a_delivery_that_the_partition_cannot_recognise_is_caught() -> None:
    assert any(asyncio.run(_after_a_death(dies_at, when)) for dies_at, when in DEATHS)


@pytest.fixture
def world() -> World:
    return World()


def test_the_outbox_is_empty_when_a_commit_was_delivered(world: World) -> None:
    async def run() -> list[str]:
        await world.begin()
        await world.live()
        return [v.id for p in world.partitions for v in await p.jobs(queue=OUTBOX)]

    assert asyncio.run(run()) == []


def test_what_crosses_is_there_when_the_commit_is_answered(world: World) -> None:
    async def run() -> None:
        await world.begin()
        store, name = world.process()
        (delivery,) = (await store.claim(["default"], lease=f"{name}/1", limit=5, for_ms=1_000)).deliveries
        fence = Held(delivery.job.id, delivery.lease)
        assert delivery.job.id == ORDER
        sends = tuple(Job(id=i, task="started") for i in STARTED)
        assert await store.commit([Commit(fence=fence, outcome=Succeeded(), send=sends)], batch=(name, 1)) == ["applied"]
        assert [await store.job(i) is not None for i in STARTED] == [True] * PARTITIONS

    asyncio.run(run())


def test_a_conflict_that_arises_on_the_way_is_a_dead_letter_that_names_it_and_the_rest_arrives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await world.begin()
        store, name = world.process()
        mine, other = root_in(2, "taken"), root_in(2, "free")
        await store.commit([Commit(send=(Job(id=mine, task="somebody's"),))], batch=(name, 1))

        async def unforeseen(*_: object) -> bool:
            return False

        monkeypatch.setattr(committing.Commits, "_conflicts", unforeseen)
        claimed = await store.claim(["default"], lease=f"{name}/1", limit=5, for_ms=60_000)
        fence = next(Held(d.job.id, d.lease) for d in claimed.deliveries if d.job.id == ORDER)
        sends = (Job(id=mine, task="t"), Job(id=other, task="t"))
        assert await store.commit([Commit(fence=fence, outcome=Succeeded(), send=sends)], batch=(name, 2)) == ["applied"]
        world.clock.advance(ms=GRACE_MS)
        assert [d.job.id for d in (await store.claim(["default"], lease=f"{name}/2", limit=5, for_ms=1_000)).deliveries] == [other]
        (letter,) = await store.jobs(state="failed")
        assert letter.queue == OUTBOX
        assert mine in str(letter.last)
        assert other not in str(letter.last)
        assert await store.discard([letter.id]) == 1

    asyncio.run(run())


def test_a_conflict_that_is_there_before_refuses_the_whole_commit(world: World) -> None:
    async def run() -> None:
        await world.begin()
        store, name = world.process()
        taken, free = root_in(2, "taken"), root_in(0, "free")
        await store.commit([Commit(send=(Job(id=taken, task="somebody's"),))], batch=(name, 1))
        claimed = await store.claim(["default"], lease=f"{name}/1", limit=5, for_ms=60_000)
        fence = next(Held(d.job.id, d.lease) for d in claimed.deliveries if d.job.id == ORDER)
        commit = Commit(fence=fence, outcome=Succeeded(), send=(Job(id=taken, task="t"), Job(id=free, task="t")))
        assert await store.commit([commit], batch=(name, 2)) == ["conflict"]
        assert await store.commit([commit], batch=(name, 2)) == ["conflict"], "again"
        view = await store.job(ORDER)
        assert view is not None
        assert view.state == "leased"
        assert await store.job(free) is None

    asyncio.run(run())


def test_a_commit_that_contradicts_itself_where_it_crosses_is_refused(world: World) -> None:
    async def run() -> None:
        store, name = world.process()
        flow = f"{root_in(2, 'flow')}~a"
        for send in (root_in(0, "new"), root_in(2, "new")):
            records = (Record(flow, 0, b"\x01"), Record(flow, 0, b"\x02"))
            commit = Commit(send=(Job(id=send, task="t"),), records=records)
            assert await store.commit([commit], batch=(f"{name}/{send}", 1)) == ["conflict"]
            assert await store.job(send) is None
        assert await store.records(flow) == []

    asyncio.run(run())


def test_a_relay_whose_job_has_ended_goes(world: World) -> None:
    async def run() -> None:
        await world.begin()
        store, name = world.process()
        await store.commit([Commit(cancel=(JOIN,))], batch=(name, 1))
        relays = [v for v in await store.jobs(queue=OUTBOX) if v.state == "open"]
        assert len(relays) == 1
        world.clock.advance(ms=RELAY_LOOK_MS)
        await store.claim(["none"], lease=f"{name}/1", limit=5, for_ms=1_000)
        assert await store.jobs(queue=OUTBOX) == []

    asyncio.run(run())


def test_a_relay_whose_job_still_waits_is_still_there_after_its_look(world: World) -> None:
    async def run() -> None:
        await world.begin()
        store, name = world.process()
        world.clock.advance(ms=RELAY_LOOK_MS)
        await store.claim(["none"], lease=f"{name}/1", limit=5, for_ms=1_000)
        view = await store.job(JOIN)
        assert view is not None
        assert view.due_in_ms is None, "nothing released it"
        trigger = Trigger(JOIN, "", (("later", 1),), 1)
        assert await store.commit([Commit(triggers=(trigger,))], batch=(name, 1)) == ["applied"]
        assert [v.state for v in await store.jobs(queue=OUTBOX)] == ["open", "open"]

    asyncio.run(run())
