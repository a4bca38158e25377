"""The oldest server that culm takes. The suite of stores runs over it, too; here is what else differed between versions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.on_redis.conftest import Opened
from tests.on_redis.test_addresses import test_an_acl_user_and_a_namespace as test_an_acl_user_and_a_namespace
from tests.on_redis.test_faults import (
    test_a_full_server_refuses_what_is_sent_clearly_and_still_drains as test_a_full_server_refuses_what_is_sent_clearly_and_still_drains,
)
from tests.on_redis.test_faults import test_scripts_that_were_flushed_are_sent_again as test_scripts_that_were_flushed_are_sent_again
from tests.servers import RedisServer, oldest_program


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    found = RedisServer(tmp_path, program=oldest_program())
    yield found
    found.kill()


async def test_it_is_that_old(server: RedisServer, opened: Callable[[str], Opened]) -> None:
    async with opened(server.url) as store:
        assert (await store.condition()).engine.startswith("Redis 6.2.")


async def test_the_shortest_wait_ends(server: RedisServer, opened: Callable[[str], Opened]) -> None:
    async with opened(server.url) as store:
        await store.wait(["default"], for_ms=50)
        began = time.monotonic()
        for _ in range(3):
            await asyncio.wait_for(store.wait(["default"], for_ms=1), 1)
        assert time.monotonic() - began < 1
