"""What a server is asked before it is trusted: that it takes writes and keeps them, has culm's schema, and lets this user use it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from culm.errors import ConfigError, StoreUnavailable
from culm.stores.postgres.address import Address
from culm.stores.postgres.migrate import LAYOUT
from culm.stores.postgres.sql import SQL

OLDEST = 13

_D1 = "D1: survives a crash of the process, not of the server (synchronous_commit=off)"
_D1_FSYNC = "D1: survives a crash of the server's process, not a power cut (fsync=off)"
_D2 = "D2: survives a power cut"
_D3 = "D3: survives the loss of a node (a synchronous standby)"


class Server(Struct, frozen=True, kw_only=True):
    version: str
    durability: str
    pooled: bool  # something between keeps connections of its own, and lends them


async def inspect(connection: Any, address: Address) -> Server:
    """Raises ConfigError: it cannot be the truth's place. StoreUnavailable: it is a standby now."""
    where, schema = str(address), address.schema
    s = await connection.fetchrow(SQL["server"], schema)
    if s["number"] // 10_000 < OLDEST:
        raise ConfigError(f"{where} is PostgreSQL {s['version']}; culm needs {OLDEST} or later")
    if s["standby"]:
        raise StoreUnavailable(f"{where} is a standby, which takes no writes; give the address of its primary, or wait for its promotion")
    if s["encoding"] != "UTF8":
        raise ConfigError(f"the database of {where} is encoded in {s['encoding']}; culm needs UTF8")
    if not address.relaxed and (s["synchronous_commit"] == "off" or s["fsync"] == "off"):
        culprit = "synchronous_commit" if s["synchronous_commit"] == "off" else "fsync"
        raise ConfigError(
            f"{where} has {culprit}=off and may lose what it acknowledged; set it to on, or accept that with ?durability=relaxed"
        )
    _check_connections(where, address.connections + 1, s)
    if not s["there"]:
        raise ConfigError(f"{where} has no schema {schema!r}; run: culm migrate URL")
    if not s["usable"]:
        raise ConfigError(f"{where}: this user has no USAGE on schema {schema!r}; let its owner run: culm migrate URL --grant ROLE")
    await _check_layout(connection, address)
    missing = await connection.fetch(SQL["privileges_missing"], schema)
    if missing:
        named = ", ".join(f"{m['privilege']} on {m['name']}" for m in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ConfigError(f"{where}: this user lacks {named} in schema {schema!r}; let its owner run: culm migrate URL --grant ROLE")
    return Server(version=s["version"], durability=_durability(s), pooled=s["pid"] != connection.get_server_pid())


async def _check_layout(connection: Any, address: Address) -> None:
    if not await connection.fetchval(SQL["version_there"], address.schema):
        raise ConfigError(f"schema {address.schema!r} of {address} has no tables of culm; run: culm migrate URL")
    layout = await connection.fetchval(f'SELECT max(number) FROM "{address.schema}".version')  # noqa: S608  # the name was checked
    if layout < LAYOUT:
        raise ConfigError(
            f"schema {address.schema!r} of {address} has version {layout}, and this culm needs {LAYOUT}; run: culm migrate URL"
        )
    if layout > LAYOUT:
        raise ConfigError(
            f"schema {address.schema!r} of {address} has version {layout}, and this culm knows {LAYOUT}; install a newer culm"
        )


def _check_connections(where: str, wanted: int, s: Any) -> None:
    for name, limit in (
        ("max_connections", s["most"]),
        ("the role's CONNECTION LIMIT", s["of_role"]),
        ("the database's CONNECTION LIMIT", s["of_database"]),
    ):
        if 0 <= limit < wanted:
            raise ConfigError(
                f"{where} allows {limit} connections ({name}), and a process of culm takes up to {wanted}; raise it or lower ?connections="
            )


def _durability(s: Any) -> str:
    if s["synchronous_commit"] == "off":
        return _D1
    if s["fsync"] == "off":
        return _D1_FSYNC
    return _D3 if s["standbys"] and s["synchronous_commit"] != "local" else _D2
