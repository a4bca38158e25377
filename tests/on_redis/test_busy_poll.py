"""A send that follows another waits for its reply awake, and so does who awaits the end of its job: each gets that reply and no other."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import cast

import pytest

from culm import App
from culm.stores.redis import busy_poll, link
from culm.stores.redis.busy_poll import AWAKE_S, LONGEST_PAUSE, MOMENT_S, NEXT_S, TURN_S, BusyPoll, Tries
from culm.stores.redis.connection import Connection
from culm.stores.redis.give_way import GiveWay
from tests.proxy import Proxy
from tests.servers import RedisServer


class Polls:
    """Counts them, and how many brought a reply."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hits = self.misses = 0
        right = Connection.poll

        def poll(connection: Connection, for_s: float, *, at_once: bool = False) -> bool:
            hit = right(connection, for_s, at_once=at_once)
            self.hits, self.misses = self.hits + hit, self.misses + (not hit)
            return hit

        patch.setattr(Connection, "poll", poll)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    """However busy this machine is: whoever waits awake waits until the reply is here."""
    monkeypatch.setattr(busy_poll, "_processors", lambda: 2)
    for name in ("MOMENT_S", "AWAKE_S", "NEXT_S"):
        monkeypatch.setattr(busy_poll, name, 20.0)
    monkeypatch.setattr(link, "COUNT_S", inf)  # a look at how many clients there are, a second after the start, is in the way of one send
    return Polls(monkeypatch)


async def first(n: int) -> None: ...


@pytest.mark.parametrize(("turn_s", "turns_at_least"), [(0.0, 300), (20.0, 1)])
async def test_each_send_gets_its_reply_and_others_get_their_turns(
    turn_s: float, turns_at_least: int, server: RedisServer, polls: Polls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy_poll, "TURN_S", turn_s)
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
        assert turns >= turns_at_least
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


async def test_an_error_of_the_socket_is_the_transports_and_one_of_a_signals_handler_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """TimeoutError is an OSError, too."""

    def failing(error: OSError) -> SimpleNamespace:
        def read(fd: int, most: int) -> bytes:
            os.read(fd, most)
            raise error

        return SimpleNamespace(read=read)

    connection = Connection("here")
    connection.connection_made(cast("asyncio.Transport", Wire()))
    connection.tell(lambda _: None, "OK")
    monkeypatch.setattr("culm.stores.redis.connection.os", failing(ConnectionResetError(104, "reset")))
    assert not connection.poll(20)
    assert connection.is_open
    connection = Connection("here")
    connection.connection_made(cast("asyncio.Transport", Wire()))
    connection.tell(lambda _: None, "OK")
    monkeypatch.setattr("culm.stores.redis.connection.os", failing(TimeoutError("it took too long")))
    with pytest.raises(TimeoutError, match="it took too long"):
        connection.poll(20)
    assert not connection.is_open


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
    """A connection, a loop that turns when it is told to, and the time it takes."""

    def __init__(self, patch: pytest.MonkeyPatch, *, processors: int = 2, is_here: bool = True) -> None:
        self.now, self.hit, self.is_here, self.gives, self.can_poll = 100.0, True, is_here, True, True
        self.polls: list[bool] = []  # whether each was to call at once
        self.answered = False
        self.caller: object = None
        self.soon: list[Callable[[], None]] = []
        patch.setattr(busy_poll, "time", SimpleNamespace(perf_counter=lambda: self.now))
        patch.setattr(busy_poll, "_processors", lambda: processors)
        patch.setattr(busy_poll, "asyncio", SimpleNamespace(current_task=lambda _: self.caller))
        self.poller = BusyPoll(cast("asyncio.AbstractEventLoop", self), cast("GiveWay", self), on=True)

    def poll(self, _: float, *, at_once: bool) -> bool:
        self.polls.append(at_once)
        return self.hit

    def has_answered(self) -> bool:
        return self.answered

    def call_soon(self, call: Callable[..., None], *words: object) -> None:
        self.soon.append(partial(call, *words))

    def gave(self) -> bool:
        return self.gives

    def turn(self) -> bool:
        """One of the loop. Whether it would not sleep after it."""
        soon, self.soon = self.soon, []
        for call in soon:
            call()
        return bool(self.soon)

    def send(self, *, after_s: float = MOMENT_S) -> bool:
        """Whether its reply was waited for awake."""
        polled = len(self.polls)
        self.now += after_s
        self.poller.asked(cast("Connection", self))
        return len(self.polls) > polled


def test_a_send_that_follows_another_is_waited_for_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert [world.send(after_s=s) for s in (1.0, MOMENT_S, 0.9 * NEXT_S, NEXT_S, MOMENT_S)] == [False, True, True, False, True]


def test_the_loop_has_a_turn_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    for _ in range(12):
        world.send(after_s=TURN_S / 3.5)
    assert world.polls == [False, True, True, True, False, True, True, True, False, True, True]


def test_a_far_server_is_tried_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, is_here=False)
    world.hit = False
    world.send()
    assert sum(world.send() for _ in range(1_000)) == 10
    assert not world.soon
    world.hit = True
    assert sum(world.send() for _ in range(LONGEST_PAUSE)) >= 1


def test_the_loop_turns_until_a_server_here_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.hit = False
    world.send()
    world.send()
    assert all(world.turn() for _ in range(10))
    world.answered = True
    assert not world.turn()
    world.answered = False
    assert world.send(), "it was in time"
    assert world.turn()
    world.now += 1.01 * AWAKE_S
    assert not world.turn()
    assert [world.send(), world.send()] == [False, True], "it was late, so the next sleeps"
    assert world.turn()
    world.gives = False
    assert not world.turn(), "a stranger has the processor"


async def test_the_loop_turns_until_the_end_that_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    end = asyncio.get_running_loop().create_future()
    world.send()
    world.poller.awaits(end)
    assert not world.soon, "it was not waited for, so this is not either"
    world.send()
    world.poller.awaits(end)
    assert len(world.soon) == 1
    assert all(world.turn() for _ in range(10))
    end.set_result(None)
    assert not world.turn()
    world.now += 1.01 * AWAKE_S
    world.poller.awaits(asyncio.get_running_loop().create_future())
    assert not world.soon, "it was sent a while ago"
    for turns in (True, False, True, False, False, True):
        world.send()
        world.poller.awaits(asyncio.get_running_loop().create_future())
        assert world.turn() == turns
        world.now += 1.01 * AWAKE_S
        world.turn()


def test_the_end_of_a_job_that_a_far_server_has_is_waited_for_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, is_here=False)
    assert [world.send(), world.send()] == [False, True]
    loop = asyncio.new_event_loop()
    world.poller.awaits(loop.create_future())
    loop.close()
    assert not world.soon


def test_what_cannot_be_polled_is_waited_for_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine, over TLS."""
    world = World(monkeypatch)
    world.can_poll = False
    assert not any(world.send() for _ in range(10))
    loop = asyncio.new_event_loop()
    world.poller.awaits(loop.create_future())
    loop.close()
    assert not world.soon


def test_sends_of_several_callers_are_not_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in one turn of the loop, and had better go together."""
    world, callers = World(monkeypatch), [object(), object()]
    for world.caller in (*callers[:1] * 4, *callers[1:] * 2, *callers):
        world.send(after_s=TURN_S / 100)
    assert world.polls == [False, True, True, False, True, False, False]


async def test_the_loop_stays_awake_for_one_thing_and_not_longer_for_sends_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, loop = World(monkeypatch), asyncio.get_running_loop()
    world.send()
    world.send()
    first, second = loop.create_future(), loop.create_future()
    world.poller.awaits(first)
    world.send(after_s=AWAKE_S / 2)
    world.poller.awaits(second)
    assert world.turn()
    assert len(world.soon) == 1
    world.now += 0.6 * AWAKE_S
    assert not world.turn(), "that is the first one's time"
    assert world.send()
    world.poller.awaits(second)
    assert not world.soon, "the first was late"
    assert world.send()
    world.poller.awaits(second)
    second.set_result(None)
    world.poller.awaits(third := loop.create_future())
    assert len(world.soon) == 2, "the second's is over, and ends with the next turn"
    assert world.turn()
    assert len(world.soon) == 1
    third.set_result(None)
    assert not world.turn()


def test_what_fails_is_tried_again_later_and_later_until_it_succeeds() -> None:
    tries, pauses = Tries(), list[int]()
    for _ in range(14):
        assert tries.may()
        tries.failed()
        pauses.append(0)
        while not tries.may():
            pauses[-1] += 1
    assert pauses == [2**n for n in range(10)] + [LONGEST_PAUSE] * 4
    for _ in range(12):
        tries.succeeded()
    tries.failed()
    assert [tries.may(), tries.may()] == [False, True]


def test_a_process_with_one_processor_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, processors=1)
    assert not any(world.send() for _ in range(20))
