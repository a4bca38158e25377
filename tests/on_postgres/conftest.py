"""Everything here needs a PostgreSQL server, which the tests start for themselves."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from culm.stores.postgres.address import parse
from culm.stores.postgres.store import PostgresStore
from tests import servers
from tests.conformance.stores import migrate_in_thread
from tests.servers import PostgresServer

Opened: TypeAlias = AbstractAsyncContextManager[PostgresStore]


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
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    """One that a test may kill, fill and stop."""
    found = PostgresServer(tmp_path / "server")
    migrate_in_thread(parse(found.url()))
    yield found
    found.close()


@pytest.fixture
def url() -> str:
    """New tables on the server of all tests that need no faults."""
    found = servers.postgres().url(f"s{uuid.uuid4().hex}", durability="relaxed")
    migrate_in_thread(parse(found))
    return found


@pytest.fixture
def opened() -> Callable[[str], Opened]:
    @asynccontextmanager
    async def opener(url: str) -> AsyncIterator[PostgresStore]:
        store = PostgresStore(parse(url))
        try:
            yield store
        finally:
            await store.close()

    return opener
