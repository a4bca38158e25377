"""What a server is asked before it is trusted: that it is a master, keeps what it is given, and for which falls it keeps it."""

from __future__ import annotations

import logging
from typing import Any

import hiredis
from msgspec import Struct

from culm.errors import ConfigError, StoreUnavailable
from culm.stores.redis.address import Address
from culm.stores.redis.connection import Connection, Reply, value

log = logging.getLogger("culm.redis")

OLDEST = (6, 2)

_D0 = "D0: survives nothing, the server keeps no append-only file"
_D1 = "D1: survives a crash of the server, not a power cut (appendfsync everysec)"
_D2 = "D2: survives a power cut (appendfsync always)"
_UNKNOWN = "an append-only file; this user may not read whether each write is synced (CONFIG GET appendfsync)"


class Server(Struct, frozen=True, kw_only=True):
    version: str
    durability: str
    policy: str  # maxmemory-policy
    client: int | None = None  # the number of this connection; None: this user may not ask
    clients: int | None = None  # how many connections it has


async def inspect(connection: Connection, address: Address) -> Server:
    """Raises ConfigError: it cannot be the truth's place. StoreUnavailable."""
    asked = [
        connection.ask(*command)
        for command in (("INFO",), ("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "maxmemory-policy"), ("CLIENT", "ID"))
    ]
    info_text, appendfsync, policy, client = [await reply for reply in asked]
    info, where = _fields(value(info_text)), str(address)
    version = info.get("redis_version", "0")
    if tuple(int(p) for p in version.split(".")[:2]) < OLDEST:
        raise ConfigError(f"{where} is Redis {version}; culm needs 6.2 or later")
    _refuse_mode(info, address)
    _refuse_replica(info, address)
    evicts = _setting(policy) or info.get("maxmemory_policy", "noeviction")
    if evicts != "noeviction":
        raise ConfigError(f"{where} may drop keys when it is full (maxmemory-policy {evicts}); set maxmemory-policy noeviction")
    if isinstance(appendfsync, hiredis.ReplyError):
        log.warning("%s: this user may not read the server's configuration; durability is judged by INFO alone", where)
    return Server(
        version=version,
        durability=_durability(info, _setting(appendfsync)),
        policy=evicts,
        client=client if isinstance(client, int) else None,
        clients=clients_in(info_text),
    )


def clients_in(info: Reply) -> int | None:
    """How many connections the server has, by its INFO; None: it does not tell."""
    found = _fields(info).get("connected_clients") if isinstance(info, bytes) else None
    return None if found is None else int(found)


def no_cluster(where: str) -> ConfigError:
    return ConfigError(f"{where} is a single server, no node of a Redis Cluster; its address is {where}")


def _refuse_mode(info: dict[str, str], address: Address) -> None:
    clustered = info.get("cluster_enabled") == "1"
    if clustered and not address.clustered:
        raise ConfigError(
            f"{address} is a node of a Redis Cluster; name some of its nodes: redis+cluster://host:port,host:port/?partitions=64"
        )
    if address.clustered and not clustered:
        raise no_cluster(str(address))


def _refuse_replica(info: dict[str, str], address: Address) -> None:
    if info.get("role", "master") != "master":
        if address.clustered:
            raise StoreUnavailable(f"{address} is a replica now")
        if address.sentinels:
            raise StoreUnavailable(f"{address}: whom the sentinels call the master is a replica still")
        raise ConfigError(f"{address} is a replica, which takes no writes; give the address of its master")


def _durability(info: dict[str, str], appendfsync: str | None) -> str:
    if info.get("aof_enabled") != "1":
        said = _D0
    else:
        said = {"always": _D2, "everysec": _D1, "no": _D1.replace("everysec", "no"), None: _UNKNOWN}.get(appendfsync, _UNKNOWN)
    replicas = int(info.get("connected_slaves", "0"))
    return said + (f"; {replicas} replica{'s' if replicas > 1 else ''}, asynchronous" if replicas else "")


def _fields(text: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line and not line.startswith("#"))


def _setting(reply: Any) -> str | None:
    return reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else None
