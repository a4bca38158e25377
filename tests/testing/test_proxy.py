"""The proxy that cuts: exactly where it is told to, and by a seed the same again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.proxy import HOST, Cut, Luck, Pass, Proxy, Stall, fate

REPLY = bytes(range(256)) * 4


class Server:
    """Answers each byte with REPLY, and counts the bytes that it was sent."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while asked := connection.recv(100):
                for _ in asked:
                    self.asked.release()
                    connection.sendall(REPLY)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=5)


def read(connection: socket.socket, n: int) -> bytes:
    """n bytes, or fewer if the connection ends before."""
    got = b""
    while len(got) < n and (more := connection.recv(n - len(got))):
        got += more
    return got


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"?")
    return read(connection, len(REPLY))


def test_without_a_command_and_without_a_seed_all_passes(server: Server) -> None:
    with Proxy(server.port) as proxy, connected(proxy) as one, connected(proxy) as other:
        assert [ask(one), ask(other), ask(one)] == [REPLY] * 3
        assert (proxy.accepted, proxy.cuts, proxy.open) == (2, 0, 2)
        proxy.wait_for(lambda p: p.passed_bytes == 3 * len(REPLY))


@pytest.mark.parametrize("n", [0, 1, 700, len(REPLY), len(REPLY) + 5])
def test_a_reply_is_cut_after_exactly_so_many_bytes_and_the_next_connection_is_whole(server: Server, n: int) -> None:
    with Proxy(server.port) as proxy:
        proxy.cut_in_reply(after_bytes=n)
        with connected(proxy) as cut:
            cut.sendall(b"??")
            assert read(cut, 2 * len(REPLY)) == (REPLY * 2)[:n]
        proxy.wait_for(lambda p: p.cuts == 1)
        assert server.asked.acquire(timeout=5)  # it was done all the same
        with connected(proxy) as whole:
            assert ask(whole) == REPLY
        assert proxy.cuts == 1


def test_a_reset_is_seen_as_one_behind_the_bytes_that_passed(server: Server) -> None:
    with Proxy(server.port) as proxy, connected(proxy) as connection:
        proxy.cut_in_reply(after_bytes=10, ending="reset")
        connection.sendall(b"?")
        assert read(connection, 10) == REPLY[:10]
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_cut_ends_all_that_is_open_and_nothing_that_comes_after(server: Server) -> None:
    with Proxy(server.port) as proxy:
        with connected(proxy) as one, connected(proxy) as other:
            assert (ask(one), ask(other)) == (REPLY, REPLY)
            assert proxy.cut() == 2
            assert (one.recv(1), other.recv(1)) == (b"", b"")
        with connected(proxy) as later:
            assert ask(later) == REPLY
        assert proxy.cuts == 2


def test_refusing_leaves_what_is_open_and_accepts_again_on_the_same_port(server: Server) -> None:
    with Proxy(server.port) as proxy, connected(proxy) as before:
        assert ask(before) == REPLY
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        assert ask(before) == REPLY
        proxy.accept()
        with connected(proxy) as after:
            assert ask(after) == REPLY


def test_a_stall_holds_back_and_loses_nothing(server: Server) -> None:
    with Proxy(server.port) as proxy, connected(proxy) as connection:
        assert ask(connection) == REPLY
        proxy.stall()
        connection.sendall(b"?")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.resume()
        connection.settimeout(5)
        assert read(connection, len(REPLY)) == REPLY


def test_what_stalls_can_be_cut(server: Server) -> None:
    with Proxy(server.port) as proxy, connected(proxy) as connection:
        proxy.stall()
        connection.sendall(b"?")
        proxy.wait_for(lambda p: p.accepted == 1)
        assert proxy.cut() == 1
        assert connection.recv(1) == b""


def test_without_a_server_the_client_sees_its_connection_closed(server: Server) -> None:
    server.close()
    with Proxy(server.port) as proxy, connected(proxy) as connection:
        assert connection.recv(1) == b""


def test_a_wait_for_what_does_not_come_says_what_came(server: Server) -> None:
    with Proxy(server.port) as proxy, pytest.raises(TimeoutError, match="accepted 0, cut 0"):
        proxy.wait_for(lambda p: p.accepted == 1, within_s=0.01)


def test_a_seed_gives_every_connection_its_fate_and_the_same_one_again() -> None:
    luck = Luck(seed=7)
    fates = [fate(luck, number) for number in range(1_000)]
    assert fates == [fate(luck, number) for number in range(1_000)]
    assert fates != [fate(Luck(seed=8), number) for number in range(1_000)]
    cuts = [f for f in fates if isinstance(f, Cut)]
    assert 400 < len(cuts) < 600
    assert {c.ending for c in cuts} == {"closed", "reset"}
    assert min(c.after_bytes for c in cuts) == 0
    assert 60 < sum(c.refuse_ms > 0 for c in cuts) < 200
    assert 150 < sum(isinstance(f, Stall) for f in fates) < 350
    assert 150 < sum(isinstance(f, Pass) for f in fates) < 350


def test_a_seeded_run_cuts_where_the_fates_say(server: Server) -> None:
    luck = Luck(seed=3, max_ms=5)
    asked = 4 * len(REPLY)

    def passes(number: int) -> int:
        match fate(luck, number):
            case Cut(after_bytes=n):
                return min(n, asked)
            case _:
                return asked

    with Proxy(server.port, luck=luck) as proxy:
        got = [_what_passes(proxy, asked) for _ in range(30)]
    assert got == [passes(number) for number in range(30)]
    assert min(got) < asked == max(got)


def _what_passes(proxy: Proxy, asked: int) -> int:
    with _patiently(lambda: connected(proxy)) as connection:
        connection.sendall(b"?" * (asked // len(REPLY)))
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while got < asked and (more := connection.recv(asked - got)):
                got += len(more)
        return got


def _patiently(connect: Callable[[], socket.socket]) -> socket.socket:
    while True:  # it refuses for some ms after some cuts
        with contextlib.suppress(ConnectionRefusedError):
            return connect()


async def _ask_async(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"?")
    reply = await reader.readexactly(len(REPLY))
    writer.close()
    await writer.wait_closed()
    return reply


def test_it_serves_clients_of_another_event_loop_in_the_same_process(server: Server) -> None:
    async def main(port: int) -> list[bytes]:
        return list(await asyncio.gather(*(_ask_async(port) for _ in range(50))))

    with Proxy(server.port) as proxy:
        assert asyncio.run(main(proxy.port)) == [REPLY] * 50
