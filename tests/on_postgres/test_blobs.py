"""Large payloads in the database: tables of before get their table by `culm migrate`, and who is not migrated is told so."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from culm import App, Offload
from culm.errors import ConfigError
from culm.stores.postgres.address import Address, parse
from culm.stores.postgres.migrate import LAYOUT, migrate, script
from tests import servers
from tests.on_postgres.asking import send
from tests.on_postgres.conftest import Opened

Opener = Callable[[str], Opened]
BIG = bytes(range(256)) * 12_000  # three MiB: more than may travel with a job


def of_version_one(address: Address) -> None:
    """As the first release made them."""
    text = script(address, since=0)
    servers.postgres().ask(f"BEGIN; {text.partition('-- Version 2:')[0]} COMMIT")


async def test_tables_of_version_one_with_their_jobs_are_migrated(opened: Opener) -> None:
    url = servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed")
    of_version_one(parse(url))
    async with opened(url) as store:
        with pytest.raises(ConfigError, match=f"has version 1, and this culm needs {LAYOUT}; run: culm migrate URL"):
            await send(store, "a")
    servers.postgres().ask(f"INSERT INTO {parse(url).schema}.paused VALUES ('mail')")
    assert await migrate(parse(url)) == (1, LAYOUT)
    async with opened(url) as store:
        assert await send(store, "a") == ["applied"]
        assert servers.postgres().ask(f"SELECT queue FROM {parse(url).schema}.paused") == [["mail"]]


@pytest.mark.parametrize("partitions", [1, 2])
async def test_large_arguments_and_results_lie_in_the_database_and_go_with_their_job(partitions: int, tmp_path: Path) -> None:
    urls = [servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed") for _ in range(partitions)]
    for url in urls:
        await migrate(parse(url))
    app = App("|".join(urls), offload=Offload(beyond=1_000, largest=8 << 20))

    @app.task(name="echo", keep=60)
    async def echo(data: bytes) -> bytes:
        return data

    def kept() -> list[int]:
        return [int(servers.postgres().ask(f"SELECT count(*) FROM {parse(url).schema}.blobs")[0][0]) for url in urls]

    async with app, app.worker():
        jobs = [await echo.using(id=f"job-{n}").enqueue(BIG + bytes([n])) for n in range(6)]  # known ids, so that each partition has some
        assert [await job.result(timeout=30) == BIG + bytes([n]) for n, job in enumerate(jobs)] == [True] * 6
        while sum(kept()) > 6:  # the results; the arguments go when their jobs have ended
            await asyncio.sleep(0.05)
        assert min(kept()) > 0, "each partition keeps its own"
