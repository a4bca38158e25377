"""A send that follows another waits for its reply awake: it gets that reply and no other, and lets others have their turns."""

from __future__ import annotations

import asyncio
import os
import socket
from math import inf
from types import SimpleNamespace
from typing import cast

import pytest

from culm import App
from culm.stores.redis import busy_poll, link
from culm.stores.redis.busy_poll import IN_A_ROW, MOMENT_S, NEXT_S, QUICK_S, BusyPoll
from culm.stores.redis.connection import Connection
from tests.proxy import Proxy
from tests.servers import RedisServer


class Polls:
    """Counts them, and how many brought a reply."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hits = self.misses = 0
        right = Connection.poll

        def poll(connection: Connection, for_s: float) -> bool:
            hit = right(connection, for_s)
            self.hits, self.misses = self.hits + hit, self.misses + (not hit)
            return hit

        patch.setattr(Connection, "poll", poll)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    """However busy this machine is: whoever waits awake waits until the reply is here."""
    monkeypatch.setattr(busy_poll, "_processors", lambda: 2)
    for name in ("MOMENT_S", "QUICK_S", "NEXT_S"):
        monkeypatch.setattr(busy_poll, name, 20.0)
    monkeypatch.setattr(link, "COUNT_S", inf)  # a look at how many clients there are, a second after the start, is in the way of one send
    return Polls(monkeypatch)


async def first(n: int) -> None: ...


async def test_each_send_gets_its_reply_and_others_get_their_turns(server: RedisServer, polls: Polls) -> None:
    async with App(server.url) as app:
        task, turns = app.task(first), 0

        async def tick() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        ticking = asyncio.create_task(tick())
        sent = [(await task.enqueue(n)).id for n in range(300)]
        ticking.cancel()
        assert polls.hits >= 290
        assert turns >= 300
        assert [d.job.id for d in (await app.store.claim(["default"], lease="w/1", limit=1_000, for_ms=1_000)).deliveries] == sent


async def test_replies_are_not_mixed_up_with_those_to_others(server: RedisServer, polls: Polls) -> None:
    async with App(server.url) as app:
        task = app.task(first)
        known = [(await task.enqueue(n)).id for n in range(20)]

        async def read(times: int) -> None:
            for n in range(times):
                view = await app.store.job(known[n % 20])
                assert view is not None
                assert view.id == known[n % 20]
                await asyncio.sleep(0.001 * (n % 3))

        reading = [asyncio.create_task(read(150)) for _ in range(3)]
        sent: list[str] = []
        while not all(one.done() for one in reading):
            sent.append((await task.enqueue(len(sent))).id)
        await asyncio.gather(*reading)
        assert polls.hits > 20
        found = (await app.store.claim(["default"], lease="w/1", limit=100_000, for_ms=1_000)).deliveries
        assert [d.job.id for d in found] == known + sent


async def test_a_connection_that_is_cut_meanwhile_loses_nothing(server: RedisServer, polls: Polls) -> None:
    with Proxy(server.port) as proxy:
        async with App(f"redis://localhost:{proxy.port}") as app:
            task, sent = app.task(first), list[str]()
            for cut in range(12):
                sent += [(await task.enqueue(n)).id for n in range(20)]
                proxy.cut_in_reply(after_bytes=3 + cut)
            sent += [(await task.enqueue(n)).id for n in range(20)]
            assert proxy.cuts >= 10
            found = (await app.store.claim(["default"], lease="w/1", limit=1_000, for_ms=1_000)).deliveries
            assert sorted(d.job.id for d in found) == sorted(sent)
    assert polls.hits > 20


async def test_it_can_be_switched_off(server: RedisServer, polls: Polls) -> None:
    async with App(f"{server.url}&busy_poll=off") as app:
        task = app.task(first)
        for n in range(20):
            await task.enqueue(n)
    assert (polls.hits, polls.misses) == (0, 0)


class Wire:
    """A transport over a socket whose other end is at hand."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)
        self.aborted = False

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self.here if name == "socket" else None

    def write(self, data: bytes) -> None:
        self.there.send(b"+OK\r\n" if b"OK" in data else b"")

    def abort(self) -> None:
        self.aborted = True

    def __del__(self) -> None:
        self.here.close()
        self.there.close()


async def test_a_signal_that_raises_while_it_is_read_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next reply would be taken for that one."""

    def read(fd: int, most: int) -> bytes:
        os.read(fd, most)
        raise KeyboardInterrupt

    wire, replies = Wire(), list[object]()
    connection = Connection("here")
    connection.connection_made(cast("asyncio.Transport", wire))
    connection.tell(replies.append, "OK")
    assert connection.poll(20)
    await asyncio.sleep(0)
    assert replies == [b"OK"]
    connection.tell(replies.append, "OK")
    monkeypatch.setattr("culm.stores.redis.connection.os", SimpleNamespace(read=read))
    with pytest.raises(KeyboardInterrupt):
        connection.poll(20)
    await asyncio.sleep(0)
    assert (replies, connection.is_open, wire.aborted) == ([b"OK", None], False, True)


def test_who_asked_on_a_loop_that_is_gone_is_not_told_on_another() -> None:
    async def ask(how: str) -> Connection:
        connection = Connection("here")
        connection.connection_made(cast("asyncio.Transport", Wire()))
        connection.tell(replies.append, how)
        return connection

    async def close(connection: Connection) -> None:
        connection.close()

    replies: list[object] = []
    connection = asyncio.run(ask("nothing"))
    asyncio.run(close(connection))
    assert replies == []
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(ask("nothing"))
    loop.run_until_complete(close(connection))
    loop.close()
    assert replies == [None]


class World:
    """A connection, and the time it takes."""

    def __init__(self, patch: pytest.MonkeyPatch, *, processors: int = 2) -> None:
        self.now, self.polled, self.hit = 100.0, 0, True
        patch.setattr(busy_poll, "time", SimpleNamespace(perf_counter=lambda: self.now))
        patch.setattr(busy_poll, "_processors", lambda: processors)
        self.poller = BusyPoll(on=True)

    def poll(self, _: float) -> bool:
        self.polled += 1
        return self.hit

    def send(self, *, after_s: float = 0.0, took_s: float = MOMENT_S) -> bool:
        """Whether it was waited for awake."""
        polled = self.polled
        self.now += after_s
        self.poller.asked(cast("Connection", self))
        self.now += took_s
        self.poller.replied()
        return self.polled > polled


def test_it_has_to_be_earned_and_is_lost_by_one_that_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for _ in range(3):
        assert [world.send() for _ in range(IN_A_ROW + 3)] == [False] * IN_A_ROW + [True] * 3
        assert not world.send(after_s=2 * NEXT_S), "the next send came late"
        world.hit = False
        assert world.send(took_s=2 * QUICK_S)
        world.hit = True
    assert not any(world.send(took_s=2 * QUICK_S) for _ in range(20)), "a server that is far away"


def test_a_process_with_one_processor_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, processors=1)
    assert not any(world.send() for _ in range(20))
