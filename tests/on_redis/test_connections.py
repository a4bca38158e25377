"""Which connections there are, and to whom: TLS, one subscription for all who listen, a wake-up for one waiter after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import trustme

from culm.commit import Commit, Held
from culm.errors import ConfigError, StoreUnavailable
from culm.outcome import Succeeded
from culm.store import Ended, Hint
from culm.stores.redis.link import Link
from tests.on_redis.asking import send, until
from tests.on_redis.conftest import Opened
from tests.servers import HOST, RedisServer, free_port

Opener = Callable[[str], Opened]


def subscribers(server: RedisServer) -> int:
    listed = server.read("CLIENT", "LIST", "TYPE", "pubsub")
    return len(listed.splitlines())


async def test_only_who_listens_subscribes_and_all_who_do_share_one_connection(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await send(store, "a", "b")
        await store.counts()
        assert await store.outcome("a") is not None
        assert subscribers(server) == 0, "a look is no subscription"
        listening = [await s for s in asyncio.as_completed([store.subscribe(f"call-{n}") for n in range(20)])]
        waiting = [asyncio.create_task(store.outcome(i, for_ms=10_000)) for i in ("a", "b") for _ in range(10)]
        claimed = await store.claim(["default"], lease="w/1", limit=2, for_ms=60_000)
        ends = [Commit(fence=Held(d.job.id, d.lease), outcome=Succeeded()) for d in claimed.deliveries]
        assert await store.commit(ends, batch=("w", 1)) == ["applied"] * 2
        assert await asyncio.gather(*waiting) == [Ended(Succeeded())] * 20
        assert subscribers(server) == 1
        await store.publish([Hint(channel=f"call-{n}", job_id="a", kind="accepted") for n in range(20)])
        for subscription in listening:
            assert len(await subscription.next(for_ms=5_000)) == 1, "each heard it once"
            await subscription.close()
        await until(lambda: len(server.read("PUBSUB", "CHANNELS")) == 1, "all but the outcomes' channel to go")


async def test_one_waiter_after_another_is_woken_while_there_is_work(server: RedisServer, opened: Opener) -> None:
    """The marker wakes one; a claim that leaves something due sets it anew. None of them waits its minute out."""
    taken: list[str] = []

    async with opened(server.url) as store:

        async def waiter(name: str) -> None:
            assert not (await store.claim(["default"], lease=f"{name}/1", limit=10, for_ms=60_000)).deliveries
            await store.wait(["default"], for_ms=60_000)
            taken.extend(d.job.id for d in (await store.claim(["default"], lease=f"{name}/2", limit=10, for_ms=60_000)).deliveries)

        waiters = [asyncio.create_task(waiter(f"w{n}")) for n in range(5)]
        await until(lambda: server.read("CLIENT", "LIST").count(b"cmd=bzpopmin") == 5, "all to wait")
        ids = [f"job-{n}" for n in range(50)]
        await send(store, *ids)
        await asyncio.wait_for(asyncio.gather(*waiters), 10)
        assert sorted(taken) == sorted(ids)


async def test_over_tls_with_a_private_authority(tmp_path: Path, opened: Opener) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    server = RedisServer(tmp_path, **{f"tls-{n}-file": str(tmp_path / f"{n}.pem") for n in ("cert", "key")}, tls_auth_clients="no")
    try:
        port = free_port()
        assert server.ask("CONFIG", "SET", "tls-port", str(port)) == b"+OK"
        address = f"rediss://{HOST}:{port}/0"
        async with opened(f"{address}?ca={tmp_path}/ca.pem") as store:
            assert await send(store, "a") == ["applied"]
            assert (await cast("Link", store._here().link).connection())._fd == -1, "beside TLS nobody reads"
            await (await store.subscribe("x")).close()
            await store.wait(["other"], for_ms=10)
        async with opened(address) as store:
            with pytest.raises(ConfigError, match=r"its certificate is not trusted \(.*\); name its authority's file with \?ca="):
                await send(store, "b", number=2)
    finally:
        server.kill()


@pytest.mark.parametrize("answers", [0, 1, 5])
async def test_a_server_that_falls_silent_is_left_wherever_it_does(answers: int, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a firewall forgets a connection: no byte comes any more, and no end. 1: it logs in; 5: it is connected."""
    for name in ("CONNECT_S", "REPLY_S"):
        monkeypatch.setattr(f"culm.stores.redis.link.{name}", 0.3)
    replies = [b"+OK", b"$40\r\nredis_version:7.0.0\r\nrole:master\r\n123456", *[b"*2\r\n$1\r\na\r\n$10\r\nnoeviction"] * 2, b":7"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = 0
        while line := await reader.readline():
            if line.startswith(b"*"):
                commands += 1
                if commands <= answers:
                    writer.write(replies[commands - 1] + b"\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, HOST, 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, opened(f"redis://{HOST}:{port}/0") as store:
        with pytest.raises(StoreUnavailable, match=r"no answer within|fell silent|has been silent"):
            await asyncio.wait_for(store.counts(), 5)
