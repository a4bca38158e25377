"""Who asked a server on its own machine yields: not on behalf of strangers, and not for a server elsewhere."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from culm.commit import Commit
from culm.job import Job
from culm.stores.redis import give_way
from culm.stores.redis.address import parse
from culm.stores.redis.give_way import FIRST_PAUSE_S, IN_A_ROW, LONGEST_PAUSE_S, STRANGER_S, GiveWay, is_here
from culm.stores.redis.link import Link
from culm.stores.redis.store import RedisStore
from tests.servers import RedisServer


class Machine:
    """Its clock, and for how long whoever yields is away."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.away_s, self.yields = 100.0, 0.0, 0
        patch.setattr(give_way, "time", SimpleNamespace(perf_counter=lambda: self.now))
        patch.setattr(os, "sched_yield", self._yield)

    def _yield(self) -> None:
        self.yields += 1
        self.now += self.away_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_server_is_given_way_each_time(machine: Machine) -> None:
    machine.away_s = STRANGER_S / 2
    polite = GiveWay()
    for _ in range(1_000):
        polite.gave()
    assert machine.yields == 1_000


def test_strangers_get_next_to_nothing(machine: Machine) -> None:
    """Asked a thousand times in a second, for ten minutes, beside one who computes."""
    machine.away_s = 2 * STRANGER_S
    polite, began, lost = GiveWay(), machine.now, 0.0
    while machine.now < began + 600:
        before = machine.now
        polite.gave()
        lost += machine.now - before
        machine.now += 0.001
    assert machine.yields > 10, "it looks again"
    assert lost < 0.001 * 600


def test_pauses_grow_and_begin_anew_when_strangers_are_gone(machine: Machine) -> None:
    def pause_s() -> float:
        began, yields = machine.now, machine.yields
        while machine.yields == yields:
            machine.now += 0.001
            polite.gave()
        return machine.now - began

    polite = GiveWay()
    machine.away_s = 2 * STRANGER_S
    polite.gave()
    polite.gave()
    first, *_, last = [pause_s() for _ in range(8)]
    assert first == pytest.approx(FIRST_PAUSE_S, abs=0.01)
    assert last == pytest.approx(LONGEST_PAUSE_S, abs=0.01)
    machine.now += LONGEST_PAUSE_S
    machine.away_s = STRANGER_S / 2
    for _ in range(IN_A_ROW):
        polite.gave()
    machine.away_s = 2 * STRANGER_S
    polite.gave()
    polite.gave()
    assert pause_s() == pytest.approx(FIRST_PAUSE_S, abs=0.01)


def test_a_slow_moment_is_no_stranger(machine: Machine) -> None:
    """Each tenth yield is long, and the others serve the server."""
    polite = GiveWay()
    for n in range(1_000):
        machine.away_s = 2 * STRANGER_S if n % 10 == 9 else STRANGER_S / 2
        polite.gave()
    assert machine.yields == 1_000


def test_a_stranger_who_comes_and_goes_gets_little(machine: Machine) -> None:
    """Each third yield meets him."""
    polite, began, lost = GiveWay(), machine.now, 0.0
    while machine.now < began + 600:
        machine.away_s = 2 * STRANGER_S if machine.yields % 3 == 2 else 0.0
        before = machine.now
        polite.gave()
        lost += machine.now - before
        machine.now += 0.001
    assert lost < 0.001 * 600


@pytest.mark.parametrize("peer", [("127.0.0.1", 6379), ("127.8.0.1", 6379), ("::1", 6379, 0, 0), "/run/redis.sock", b"\0abstract"])
def test_what_is_here(peer: object) -> None:
    assert is_here(peer)


@pytest.mark.parametrize("peer", [("10.0.0.7", 6379), ("fe80::1%eth0", 6379, 0, 2), ("redis.example", 6379), None])
def test_what_is_elsewhere(peer: object) -> None:
    assert not is_here(peer)


@pytest.mark.parametrize("here", [True, False])
async def test_ends_claims_and_sends_give_way_here_only(here: bool, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store, yields = RedisStore(parse(server.url)), 0
    jobs = tuple(Job(id=f"j{n}", task="t") for n in range(4))

    def away() -> None:
        nonlocal yields
        yields += 1

    monkeypatch.setattr(os, "sched_yield", away)
    try:
        await store.commit([Commit(send=jobs[:1])], batch=("app", 1))
        link = store._here().link
        assert isinstance(link, Link)
        connection = link._main
        assert connection is not None
        assert connection.is_here
        connection.is_here, yields = here, 0
        await store.commit([Commit(send=jobs[1:])], batch=("app", 2))
        assert yields == here
        assert len((await store.claim(["default"], lease="w/1", limit=9, for_ms=1_000)).deliveries) == 4
        assert yields == 2 * here
        assert store.commit_at_once([Commit(cancel=("j0",))], batch=("app", 3), alone=False, fresh=False, then=lambda _: None) is False
        assert store.commit_at_once(
            [Commit(send=(Job(id="a", task="t"), Job(id="b", task="t")))], batch=("app", 3), alone=False, fresh=True, then=lambda _: None
        )
        assert yields == 3 * here
    finally:
        await store.close()
