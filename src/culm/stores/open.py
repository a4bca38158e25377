"""From an address to a store. Only this file names the stores, and imports one when its address is opened."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from culm.errors import ConfigError
from culm.store import Blobs, FullStore, KeepsBlobs
from culm.stores.partitioned.address import partition_addresses

if TYPE_CHECKING:
    from culm.stores.postgres.address import Address as PostgresAddress
    from culm.stores.redis.address import Address

REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
POSTGRES = ("postgresql", "postgres")
SCHEMES = ("memory", "sqlite", *REDIS, *POSTGRES)


def open_store(url: str) -> FullStore:
    """The store at that address: `memory://`, `sqlite:///path` (four slashes for an absolute path), or `redis://host:port/database`
    (docs/redis.md has the others, docs/partitions.md several stores), or `postgresql://user@host:port/database` (docs/postgres.md).

    Raises ConfigError (unknown scheme or option, a path that cannot be written, a file of something else) and StoreUnavailable.
    """
    if (parts := partition_addresses(url)) is not None:
        from culm.stores.partitioned.store import PartitionedStore

        return PartitionedStore([open_store(part) for part in parts])
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme, SCHEMES, n=1)
        hint = f"; did you mean {near[0]}://?" if near else ""
        raise ConfigError(f"unknown store address {masked(url)!r}: it must start with {', '.join(s + '://' for s in SCHEMES)}{hint}")
    if scheme == "memory":
        from culm.stores.memory import MemoryStore

        if url != "memory://":
            raise ConfigError(f"memory:// takes nothing behind it, got {masked(url)!r}")
        return MemoryStore()
    if scheme in REDIS:
        try:
            import hiredis  # noqa: F401  # an extra: only its absence is looked for here
        except ImportError:
            raise ConfigError(f"{scheme}:// needs a package that is not installed; run: pip install 'culm[redis]'") from None
        from culm.stores.redis.address import parse
        from culm.stores.redis.store import RedisStore

        address = parse(url)
        return _cluster(address) if address.partitions else RedisStore(address)
    if scheme in POSTGRES:
        _needs_asyncpg(scheme)
        from culm.stores.postgres.address import parse as parse_postgres
        from culm.stores.postgres.store import PostgresStore

        return PostgresStore(parse_postgres(url))
    from culm.stores.sqlite.address import open_sqlite

    return open_sqlite(url)


def open_blobs(store: FullStore, folder: Path | None) -> Blobs:
    """Where large payloads lie: in that folder, else in the store. Raises ConfigError: it cannot be, or the store has no place for them."""
    if folder is not None:
        from culm.stores.folder_blobs import FolderBlobs

        return FolderBlobs(folder)
    if not isinstance(store, KeepsBlobs):
        raise ConfigError(f"the store {store} has no place for large payloads; give Offload a folder that all workers share")
    return store.blobs


def _cluster(address: Address) -> FullStore:
    from culm.stores.partitioned.store import PartitionedStore
    from culm.stores.redis.cluster import Cluster, partition_of
    from culm.stores.redis.store import RedisStore

    cluster = Cluster(address)
    return PartitionedStore([RedisStore(partition_of(address, n), cluster=cluster) for n in range(address.partitions)], waiter=cluster)


def _needs_asyncpg(scheme: str) -> None:
    try:
        import asyncpg  # noqa: F401  # an extra: only its absence is looked for here
    except ImportError:
        raise ConfigError(f"{scheme}:// needs a package that is not installed; run: pip install 'culm[postgres]'") from None


async def migrate_store(url: str, *, grant: str | None = None) -> tuple[int, int]:
    """Bring the tables of that store to this version; only PostgreSQL's are migrated by hand. Returns from which version to which.

    Args:
        grant: a role that may then use them.

    Raises ConfigError, StoreError, StoreUnavailable.
    """
    from culm.stores.postgres.migrate import migrate

    return await migrate(_to_migrate(url), grant=grant)


async def migration_of(url: str) -> tuple[int, int]:
    """Which version the tables have (0: there are none), and which this culm needs. Raises ConfigError, StoreUnavailable."""
    from culm.stores.postgres.migrate import LAYOUT, version_of

    return await version_of(_to_migrate(url)), LAYOUT


def migration_script(url: str, *, grant: str | None = None) -> str:
    """The SQL of a first migration, for whoever runs it by other means. Raises ConfigError."""
    from culm.stores.postgres.migrate import script

    return script(_to_migrate(url), since=0, grant=grant)


def _to_migrate(url: str) -> PostgresAddress:
    scheme = url.partition("://")[0]
    if scheme not in POSTGRES:
        raise ConfigError(f"{masked(url)} needs no migration: only the tables of postgresql:// are made by a command")
    _needs_asyncpg(scheme)
    from culm.stores.postgres.address import parse

    return parse(url)


def settled(url: str) -> str:
    """The address as it stays true when the process changes its working directory."""
    if "|" in url:
        return "|".join(settled(part) for part in url.split("|"))
    if not url.startswith("sqlite:///"):
        return url
    from culm.stores.sqlite.address import file_of

    options = url.partition("?")[2]
    return f"sqlite:///{quote(str(file_of(url)))}{'?' + options if options else ''}"


def missing_file(url: str) -> Path | None:
    """The file of that store, if there is none yet: whoever only reads should not make it. Raises ConfigError."""
    if "|" in url:
        return next((path for part in url.split("|") if (path := missing_file(part)) is not None), None)
    if not url.startswith("sqlite:"):
        return None
    from culm.stores.sqlite.address import file_of

    path = file_of(url)
    return None if path.exists() else path


def default_url() -> str:
    """`$CULM_URL`, else `culm.db` beside the nearest `pyproject.toml` upwards, else in the working directory."""
    if url := os.environ.get("CULM_URL"):
        return url
    here = Path.cwd()
    home = next((d for d in (here, *here.parents) if (d / "pyproject.toml").is_file()), here)
    return f"sqlite:///{quote(str(home / 'culm.db'))}"


def masked(url: str) -> str:
    """The address without its password, fit for logs and errors."""
    if "|" in url:
        return "|".join(masked(part) for part in url.split("|"))
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return url.partition("://")[0] + "://..."
    url = re.sub(r"\b((?:sentinel_|ssl)?password=)[^&]*", r"\1***", url)
    return url if not password else url.replace(f":{password}@", ":***@", 1)
