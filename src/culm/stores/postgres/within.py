"""A commit in a transaction of somebody else: its jobs are there when that one commits, and never were when it is rolled back.

asyncpg, psycopg 3 and SQLAlchemy (sync and async) are told apart by where their types come from: none of them is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from culm.commit import Commit, Committed
from culm.errors import CulmError
from culm.stores.postgres import wire
from culm.stores.postgres.faults import translated
from culm.stores.postgres.link import Link
from culm.stores.postgres.migrate import quoted

TYPES = (
    "bigint", "text", "bigint", "boolean", "boolean",
    "text[]", "text[]", "smallint[]", "bigint[]", "bigint[]", "bytea[]",
    "int[]", "int[]", "int[]", "int[]", "int[]",
    "text[]", "text[]", "text[]", "smallint[]", "bigint[]", "bigint[]", "bigint[]", "text[]", "bytea[]",
    "text[]", "text[]", "text[]", "bytea[]",
    "text[]", "text[]", "int[]", "int[]", "text[]", "bigint[]",
    "text[]", "bigint[]", "bytea[]",
    "text[]",
)  # fmt: skip  # of the parameters of the schema's function `commit`


async def commit_within(within: Any, schema: str, now: int | None, commit: Commit, *, ledger: bool) -> Committed:
    """Apply the commit with the caller's connection. Raises TypeError, ValueError; what the caller's driver raises, it raises here, too."""
    args = [now, "", 0, ledger, True, *wire.anything([commit])]
    function = f"{quoted(schema)}.commit"
    families = {kind.__module__.partition(".")[0] for kind in type(within).__mro__}
    if "asyncpg" in families:
        if not within.is_in_transaction():
            raise ValueError("within= takes a connection with an open transaction; begin one: async with connection.transaction()")
        letters = await within.fetchval(_query(function, lambda n: f"${n}"), *args)
    elif "psycopg" in families:
        letters = await _by_psycopg(within, function, args)
    elif "sqlalchemy" in families:
        letters = await _by_sqlalchemy(within, function, args)
    else:
        raise TypeError(
            f"within= takes a connection of asyncpg or psycopg, or a session or connection of SQLAlchemy, got {type(within).__name__}"
        )
    return wire.answers(letters)[0]


def _query(function: str, parameter: Callable[[int], str]) -> str:
    return f"SELECT {function}({', '.join(f'CAST({parameter(n)} AS {kind})' for n, kind in enumerate(TYPES, start=1))})"


async def _by_psycopg(within: Any, function: str, args: list[Any]) -> str:
    if within.autocommit and within.info.transaction_status == 0:
        raise ValueError("within= takes a connection with an open transaction; begin one: with connection.transaction()")
    cursor = within.execute(_query(function, lambda _: "%s"), args)
    if hasattr(cursor, "__await__"):
        cursor = await cursor
        (letters,) = await cursor.fetchone()
    else:
        (letters,) = cursor.fetchone()
    return str(letters)


async def _by_sqlalchemy(within: Any, function: str, args: list[Any]) -> str:
    from sqlalchemy import text

    found = within.execute(text(_query(function, lambda n: f":p{n}")), {f"p{n}": value for n, value in enumerate(args, start=1)})
    if hasattr(found, "__await__"):
        found = await found
    return str(found.scalar_one())


class Transaction:
    """One of the store's own, open: what is written with `connection` and the job's end are committed together.

    Attributes:
        connection: of asyncpg.
    """

    def __init__(self, link: Link, connection: Any, begun: Any, now: Callable[[], int | None]) -> None:
        self.connection = connection
        self._link = link
        self._begun = begun
        self._now = now

    async def commit(self, commit: Commit) -> Committed:
        """Apply it and commit all, or undo all. Raises StoreUnavailable (it may have happened) and StoreError (it did not)."""
        address = self._link.address
        try:
            args = [self._now(), "", 0, address.ledger, False, *wire.anything([commit])]
            (answer,) = wire.answers(await self.connection.fetchval(self._link.sql["commit"], *args))
            if answer == "applied":
                await self._begun.commit()
                self._link.give_back(self.connection)
                return answer
        except Exception as e:  # whatever the driver says, in the store's words
            self._link.drop(self.connection)
            raise translated(e, str(address)) from e
        await self.roll_back()
        return answer

    async def roll_back(self) -> None:
        """Undo all. A connection on which even that fails is thrown away, which undoes it, too."""
        with suppress(Exception):
            await self._begun.rollback()
            self._link.give_back(self.connection)
            return
        self._link.drop(self.connection)


async def begin(link: Link, now: Callable[[], int | None]) -> Transaction:
    """Raises StoreUnavailable, StoreError."""
    connection = await link.take()
    begun = connection.transaction()
    try:
        await begun.start()
    except BaseException as e:
        link.drop(connection)
        if isinstance(e, Exception) and not isinstance(e, CulmError):
            raise translated(e, str(link.address)) from None
        raise
    return Transaction(link, connection, begun, now)
