"""Migrations: the .sql files of `migrations/<version>/`, each version applied once, in one transaction, by the owner of the schema.

The store never migrates by itself: it says what is missing, and the command that mends it.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import asyncpg

from culm.errors import ConfigError
from culm.stores.postgres.address import Address
from culm.stores.postgres.faults import translated

_FOLDER = files(__package__) / "migrations"
LAYOUT = max(int(folder.name) for folder in _FOLDER.iterdir() if folder.name.isdecimal())

_OWNS = "SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = $1"
_LOCK = 6_179_003_561  # of one migration at a time, in a database


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def script(address: Address, *, since: int, grant: str | None = None) -> str:
    """The SQL that brings the schema from that version to this code's, and lets the role use it."""
    schema = quoted(address.schema)
    parts = []
    if since < LAYOUT:
        parts += [f"CREATE SCHEMA IF NOT EXISTS {schema};", f"SET LOCAL search_path = {schema}, pg_temp;"]
    for version in range(since + 1, LAYOUT + 1):
        found = sorted((f for f in (_FOLDER / f"{version:03}").iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
        parts += [f.read_text(encoding="utf-8").replace("{schema}", schema) for f in found]
        parts.append(f"INSERT INTO {schema}.version (number) VALUES ({version});")  # noqa: S608  # quoted
    if grant is not None:
        parts.append(_grants(schema, quoted(grant)))
    return "\n".join(parts)


def _grants(schema: str, role: str) -> str:
    return f"""GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role};
REVOKE INSERT, UPDATE, DELETE ON {schema}.version FROM {role};"""


async def version_of(address: Address) -> int:
    """The version of the schema that is there; 0: none. Raises ConfigError, StoreUnavailable."""
    connection = await _connect(address)
    try:
        async with connection.transaction(readonly=True):  # behind a pooler: of one and the same server
            return await _version(connection, address)
    except Exception as e:  # noqa: BLE001  # whatever the driver says, in the store's words
        raise translated(e, str(address)) from None
    finally:
        connection.terminate()


async def migrate(address: Address, *, grant: str | None = None) -> tuple[int, int]:
    """Bring the schema to this code's version. Returns from which version to which. Raises ConfigError, StoreError, StoreUnavailable."""
    connection = await _connect(address)
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            since = await _version(connection, address)
            if since > LAYOUT:
                raise ConfigError(
                    f"schema {address.schema!r} of {address} has version {since}, and this culm knows {LAYOUT}; install a newer culm"
                )
            if grant is not None and since and not await connection.fetchval(_OWNS, address.schema):
                raise ConfigError(f"{address}: only the owner of schema {address.schema!r} can let {grant} use it; say the owner's")
            if text := script(address, since=since, grant=grant):
                await connection.execute(text)
        return since, LAYOUT
    except asyncpg.InsufficientPrivilegeError as e:
        said = str(e).partition("\n")[0]
        raise ConfigError(f"{address}: {said}; migrate as the owner of schema {address.schema!r}, who may CREATE in the database") from None
    except Exception as e:  # noqa: BLE001  # whatever the driver says, in the store's words
        raise translated(e, str(address)) from None
    finally:
        connection.terminate()


async def _connect(address: Address) -> Any:
    try:
        return await asyncpg.connect(address.dsn, timeout=10, statement_cache_size=0, server_settings={"application_name": "culm migrate"})
    except Exception as e:  # noqa: BLE001  # whatever the driver says, in the store's words
        raise translated(e, str(address)) from None


async def _version(connection: Any, address: Address) -> int:
    there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{quoted(address.schema)}.version")
    if not there:
        return 0
    return int(await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {quoted(address.schema)}.version"))  # noqa: S608  # quoted
