"""Everything here needs a redis-server, which the tests start for themselves."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from culm.stores.redis.address import parse
from culm.stores.redis.store import RedisStore
from tests.servers import RedisServer

Opened: TypeAlias = AbstractAsyncContextManager[RedisStore]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests may be coroutines here."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that a test may kill, fill and stop."""
    found = RedisServer(tmp_path)
    yield found
    found.kill()


@pytest.fixture
def opened() -> Callable[[str], Opened]:
    @asynccontextmanager
    async def opener(url: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(parse(url), rng=random.Random(7))
        try:
            yield store
        finally:
            await store.close()

    return opener
