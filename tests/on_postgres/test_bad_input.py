"""Whatever is wrong with an address, a server, a schema or a user is one clear line, found at first use; a password is never in it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

import pytest

from culm.errors import ConfigError, StoreUnavailable
from culm.stores.open import masked
from culm.stores.postgres.address import parse
from culm.stores.postgres.migrate import LAYOUT, migrate, script
from tests import servers
from tests.on_postgres.asking import send
from tests.on_postgres.conftest import Opened
from tests.servers import HOST, PostgresServer, free_port

Opener = Callable[[str], Opened]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:geheim@h", "names no database; say postgresql://user:password@host:5432/database"),
        ("postgresql://u:geheim@h:port/db", "has no valid host and port"),
        ("postgresql://u:geheim@h/db?geheim=1", "unknown option 'geheim'"),
        ("postgresql://u:geheim@h/db?schema=a-b", "a schema's name has 1 to 40 letters"),
        ("postgresql://u:geheim@h/db?connections=1", "connections is a number from 2 to 100, got '1'"),
        ("postgresql://u:geheim@h/db?listen=no", "listen is on or off, got 'no'"),
    ],
)
def test_an_address_that_cannot_be_says_why(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert says in str(caught.value)
    assert "u:geheim" not in str(caught.value)


def test_an_address_is_shown_without_its_secrets() -> None:
    url = "postgresql://u:geheim@h/db?sslpassword=auch"
    assert str(parse(url)) == "postgresql://h/db"
    assert masked(url) == "postgresql://u:***@h/db?sslpassword=***"


async def refusal(opened: Opener, url: str) -> str:
    async with opened(url) as store:
        with pytest.raises(ConfigError) as caught:
            await send(store, "a")
        assert "\n" not in str(caught.value)
        return str(caught.value)


async def test_a_server_that_is_not_there_is_unavailable(opened: Opener) -> None:
    async with opened(f"postgresql://u:geheim@{HOST}:{free_port()}/db") as store:
        with pytest.raises(StoreUnavailable, match="cannot connect to postgresql://127") as caught:
            await send(store, "a")
        assert "geheim" not in str(caught.value)


async def test_a_wrong_password_is_said_and_not_shown(server: PostgresServer, opened: Opener) -> None:
    server.ask("CREATE ROLE app LOGIN PASSWORD 'right'")
    (server.data / "pg_hba.conf").write_text(f"host all culm {HOST}/32 trust\nhost all all {HOST}/32 scram-sha-256\n")
    server.ask("SELECT pg_reload_conf()")
    said = await refusal(opened, server.url().replace("culm@", "app:geheim@"))
    assert 'refuses this user: password authentication failed for user "app"; check user and password' in said
    assert "geheim" not in said


async def test_a_database_that_is_not_there_is_said(url: str, opened: Opener) -> None:
    assert 'database "nowhere" does not exist' in await refusal(opened, url.replace("/postgres?", "/nowhere?"))


async def test_a_missing_schema_says_the_command(opened: Opener) -> None:
    said = await refusal(opened, servers.postgres().url("nowhere", durability="relaxed"))
    assert said.endswith("has no schema 'nowhere'; run: culm migrate URL")
    servers.postgres().ask('CREATE SCHEMA IF NOT EXISTS "bare"')
    said = await refusal(opened, servers.postgres().url("bare", durability="relaxed"))
    assert said.endswith("has no tables of culm; run: culm migrate URL")


async def test_a_newer_schema_says_so_and_is_not_migrated(url: str, opened: Opener) -> None:
    schema = parse(url).schema
    servers.postgres().ask(f"INSERT INTO {schema}.version VALUES (99)")
    assert (await refusal(opened, url)).endswith(f"has version 99, and this culm knows {LAYOUT}; install a newer culm")
    with pytest.raises(ConfigError, match="install a newer culm"):
        await migrate(parse(url))


async def test_an_older_schema_says_the_command(url: str, opened: Opener) -> None:
    schema = parse(url).schema
    servers.postgres().ask(f"TRUNCATE {schema}.version; INSERT INTO {schema}.version VALUES (0)")
    assert (await refusal(opened, url)).endswith(f"has version 0, and this culm needs {LAYOUT}; run: culm migrate URL")


async def test_a_migration_is_made_once(url: str) -> None:
    assert await migrate(parse(url)) == (LAYOUT, LAYOUT)
    assert script(parse(url), since=LAYOUT) == ""


@pytest.mark.parametrize("setting", ["synchronous_commit", "fsync"])
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused_unless_asked_for(
    setting: str, server: PostgresServer, opened: Opener
) -> None:
    server.ask(f"ALTER SYSTEM SET {setting} = off")
    server.ask("SELECT pg_reload_conf()")
    while server.ask(f"SHOW {setting}") != [["off"]]:
        pass
    said = await refusal(opened, server.url())
    assert f"has {setting}=off and may lose what it acknowledged; set it to on, or accept that with ?durability=relaxed" in said
    async with opened(server.url(durability="relaxed")) as store:
        assert (await store.condition()).durability.startswith("D1: survives a crash of the ")


async def test_too_few_connections_are_said_in_numbers(server: PostgresServer, opened: Opener) -> None:
    said = await refusal(opened, server.url(connections="80"))
    assert "allows 57 connections (max_connections), and a process of culm takes up to 81; raise it or lower ?connections=" in said
    server.ask("ALTER ROLE culm CONNECTION LIMIT 3")
    assert "allows 3 connections (the role's CONNECTION LIMIT)" in await refusal(opened, server.url())


async def test_a_role_that_migrates_and_one_that_only_uses_the_tables(opened: Opener) -> None:
    server, name = servers.postgres(), f"r{uuid.uuid4().hex[:12]}"
    server.ask(f"CREATE ROLE {name}_owner LOGIN; CREATE ROLE {name}_app LOGIN")
    server.ask(f"GRANT CREATE ON DATABASE postgres TO {name}_owner")
    owner = server.url(name, durability="relaxed").replace("culm@", f"{name}_owner@")
    app = server.url(name, durability="relaxed").replace("culm@", f"{name}_app@")
    with pytest.raises(ConfigError, match="permission denied for database postgres; migrate as the owner"):
        await migrate(parse(app))
    assert await migrate(parse(owner)) == (0, LAYOUT)
    said = await refusal(opened, app)
    assert said.endswith(f"this user has no USAGE on schema '{name}'; let its owner run: culm migrate URL --grant ROLE")
    server.ask(f"GRANT USAGE ON SCHEMA {name} TO {name}_app; GRANT SELECT ON {name}.version TO {name}_app")
    assert "this user lacks DELETE on alive, INSERT on alive, SELECT on alive, UPDATE on alive" in await refusal(opened, app)
    await migrate(parse(owner), grant=f"{name}_app")
    async with opened(app) as store:
        assert await send(store, "a", "r~b") == ["applied"] * 2
        assert len((await store.claim(["default"], lease="w/1", limit=5, for_ms=1_000)).deliveries) == 2
        assert await store.sweep() == 0
    with pytest.raises(ConfigError, match="only the owner of schema"):
        await migrate(parse(app), grant=f"{name}_app")


async def test_what_the_server_can_never_take_is_refused_and_changes_nothing(url: str, opened: Opener) -> None:  # I33
    from culm.errors import StoreError

    async with opened(url) as store:
        for job_id in ("nul\0", "half\udc80", random.Random(1).randbytes(6_000).hex()):
            with pytest.raises(StoreError, match="refused") as caught:
                await send(store, job_id)
            assert type(caught.value) is StoreError
        assert await store.jobs() == []
        assert await send(store, "a", number=2) == ["applied"]


async def test_a_pooler_that_cannot_listen_is_served_by_polling(url: str, opened: Opener) -> None:
    import asyncio

    async with opened(url + "&listen=off") as store, opened(url) as other:
        waiting = asyncio.create_task(store.outcome("a", for_ms=20_000))
        await send(other, "a")
        outcome = asyncio.create_task(store.outcome("a", for_ms=20_000))
        await asyncio.wait_for(store.wait(["default"], for_ms=20_000), 5)
        from culm.commit import Commit, Held
        from culm.outcome import Succeeded
        from culm.store import Ended

        (d,) = (await store.claim(["default"], lease="w/1", limit=5, for_ms=60_000)).deliveries
        assert await store.commit([Commit(fence=Held("a", d.lease), outcome=Succeeded())], batch=("w", 1)) == ["applied"]
        assert await asyncio.wait_for(outcome, 5) == Ended(Succeeded())
        await waiting
        assert servers.postgres().ask("SELECT count(*) FROM pg_prepared_statements") == [["0"]]
