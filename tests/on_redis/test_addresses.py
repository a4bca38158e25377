"""Addresses and servers that cannot be are one clear line, without the password; of those that can, the durability is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from culm import ConfigError
from culm.commit import Commit
from culm.errors import StoreUnavailable
from culm.job import Job
from culm.store import Pending
from culm.stores.open import open_store
from culm.stores.redis.store import RedisStore
from tests.on_redis.conftest import Opened
from tests.servers import HOST, RedisServer

Opener = Callable[[str], Opened]


async def use(store: RedisStore) -> None:
    assert await store.commit([Commit(send=(Job(id="a", task="t"),))], batch=("app", 1)) == ["applied"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://ada:geheim@host:port/0", "no valid host and port"),
        ("redis://:geheim@host/jobs", "^a database of Redis is a number, got 'jobs'; a namespace is given as"),
        ("redis://:geheim@host/0?namspace=x", "^unknown option 'namspace' in this address; the options are namespace"),
        ("redis://host/0?namespace={x}", "^a namespace has 1 to 64 letters"),
        ("redis://host/0?password=geheim", "^unknown option 'password'"),
        ("unix://", "names no socket"),
        ("unix://host/path.sock", "names no socket"),
        ("rediss://:geheim@host/0?ledger=maybe", "^ledger is on or off"),
    ],
)
def test_an_address_that_cannot_be_is_one_clear_line(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(ConfigError, match=r"run: pip install 'culm\[redis\]'"):
        open_store("redis://localhost")


async def test_a_server_that_is_not_there_is_unavailable(opened: Opener) -> None:
    async with opened(f"redis://:geheim@{HOST}:1/0") as store:
        with pytest.raises(StoreUnavailable, match=f"^cannot connect to redis://{HOST}:1/0: ") as caught:
            await use(store)
        assert "geheim" not in f"{caught.value} {store}"


async def test_a_policy_that_drops_keys_is_refused(server: RedisServer, opened: Opener) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with opened(server.url) as store:
        with pytest.raises(ConfigError, match=r"may drop keys when it is full .*set maxmemory-policy noeviction"):
            await use(store)


async def test_a_replica_is_refused(server: RedisServer, opened: Opener) -> None:
    server.ask("REPLICAOF", HOST, "1")
    async with opened(server.url) as store:
        with pytest.raises(ConfigError, match="is a replica, which takes no writes; give the address of its master"):
            await use(store)


async def test_a_server_that_becomes_a_replica_is_left(server: RedisServer, opened: Opener) -> None:
    async with opened(server.url) as store:
        await use(store)
        server.ask("REPLICAOF", HOST, "1")
        with pytest.raises(StoreUnavailable, match="cannot do it now"):
            await store.commit([Commit(send=(Job(id="b", task="t"),))], batch=("app", 2))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "D0: survives nothing"),
        ({"appendonly": "yes"}, "D1: survives a crash of the server"),
        ({"appendonly": "yes", "appendfsync": "always"}, "D2: survives a power cut"),
    ],
)
async def test_the_durability_is_said(options: dict[str, str], says: str, tmp_path: Path, opened: Opener) -> None:
    server = RedisServer(tmp_path, **options)
    try:
        async with opened(server.url) as store:
            assert "the first connection says" in str(store)
            await use(store)
            assert says in str(store)
    finally:
        server.kill()


async def test_an_acl_user_and_a_namespace(server: RedisServer, opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    rights = ["~{culm:*", "resetchannels", "&{culm:*", "+@all", "-@dangerous", "+info"]  # as docs/redis.md says
    server.ask("ACL", "SETUSER", "ada", "on", ">geheim", *rights)
    url = server.url
    async with opened(url.replace("redis://", "redis://ada:geheim@")) as store, opened(url) as same, opened(server.url) as other:
        await use(store)
        assert "may not read the server's configuration" in caplog.text
        assert await store.outcome("a", for_ms=10) == Pending()
        await (await store.subscribe("x")).close()
        await store.wait(["default"], for_ms=10)
        assert (await store.sweep(), await store.workers(), len(await store.jobs())) == (0, [], 1)
        assert await same.job("a") is not None
        assert await other.job("a") is None
    async with opened(url.replace("redis://", "redis://ada:falsch@")) as store:
        with pytest.raises(ConfigError, match="refuses this user") as caught:
            await use(store)
        assert "falsch" not in str(caught.value)


async def test_a_unix_socket(tmp_path: Path, opened: Opener) -> None:
    server = RedisServer(tmp_path, unixsocket=str(tmp_path / "r.sock"))
    try:
        async with opened(f"unix://{tmp_path}/r.sock?database=2&namespace=x") as store:
            await use(store)
            assert server.ask("DBSIZE") == b":0", "in database 2"
    finally:
        server.kill()
