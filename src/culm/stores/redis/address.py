"""`redis://[user:password@]host[:port][/database]`, `rediss://` (TLS), `unix://[user:password@]/path/to.sock`, and their options.

`redis+sentinel://[user:password@]host[:port],host[:port].../master[/database]` names sentinels and the master that they watch;
`rediss+sentinel://` speaks TLS to all of them. `redis+cluster://host:port,host:port/?partitions=64` names nodes of a Redis Cluster.
"""

from __future__ import annotations

import re
import ssl
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

from culm.errors import ConfigError

PORT, SENTINEL_PORT = 6379, 26379
MOST_PARTITIONS = 1_024
LAYOUT = 1  # the version of the keys: docs/redis.md

_OPTIONS = {
    "namespace": "a name",
    "database": "a number",
    "ca": "a file of trusted certificates (rediss only)",
    "sentinel_username": "whom the sentinels know (sentinel only)",
    "sentinel_password": "the sentinels' own (sentinel only)",
    "partitions": "a number, 64 unless told (cluster only)",
    "ledger": "on|off",
    "busy_poll": "on|off: off, and a send that is alone always sleeps until its reply wakes it",
}
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

Place: TypeAlias = tuple[str, int]  # host, port


class Address(Struct, frozen=True, kw_only=True):
    host: str = "localhost"
    port: int = PORT
    path: str = ""  # of a Unix socket; "": TCP
    sentinels: tuple[Place, ...] = ()  # who knows the host and port; empty: they are as given
    master: str = ""  # what the sentinels call it
    sentinel_user: str = ""
    sentinel_password: str = ""
    database: int = 0
    user: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""
    namespace: str = "default"
    ledger: bool = False
    busy_poll: bool = True  # where it pays
    clustered: bool = False  # the server must be a node of a Redis Cluster, or else must not
    nodes: tuple[Place, ...] = ()  # of the cluster, which know the others
    partitions: int = 0

    def __str__(self) -> str:
        """Without user and password."""
        scheme = "rediss" if self.tls else "redis"
        if self.path:
            return f"unix://{self.path}"
        if self.sentinels:
            return f"{scheme}+sentinel://{','.join(shown(p) for p in self.sentinels)}/{self.master}/{self.database}"
        if self.nodes:
            return f"{scheme}+cluster://{','.join(shown(p) for p in self.nodes)}"
        return f"{scheme}://{shown((self.host, self.port))}" + (f"/{self.database}" if not self.clustered else "")

    @property
    def prefix(self) -> str:
        """Of every key: one hash tag, and the version of the layout."""
        return f"{{culm:{self.namespace}}}:{LAYOUT}:"

    def tls_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(f"{self}: the certificates in {self.ca} cannot be read: {e}") from None


def shown(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _example(scheme: str) -> str:
    where = "host:26379,host/master/0" if scheme.endswith("+sentinel") else "host:6379/0"
    return f"{scheme}://user:password@{where}"


def parse(url: str) -> Address:
    """Raises ConfigError, which never holds the password."""
    scheme = url.partition("://")[0]
    example = _example(scheme)
    try:
        parts = urlsplit(url)
        places = tuple(_places(parts, SENTINEL_PORT if scheme.endswith("+sentinel") else PORT))
    except ValueError:
        raise ConfigError(f"this {scheme}:// address has no valid host and port; say {example}") from None
    options, clustered = _options(parts.query), scheme.endswith("+cluster")
    if "partitions" in options and not clustered:
        raise ConfigError(f"a {scheme}:// address has no partitions; those of a cluster are {scheme}+cluster://host:port/?partitions=64")
    path = unquote(parts.path)
    master, in_path = "", path.strip("/")
    if scheme.endswith("+sentinel"):
        master, _, in_path = in_path.partition("/")
        if not master or not places:
            raise ConfigError(f"this {scheme}:// address names no {'master' if places else 'sentinel'}; say {example}")
    elif scheme == "unix":
        if not path.startswith("/") or places:
            raise ConfigError("this unix:// address names no socket; say unix:///absolute/path.sock")
        in_path = ""
    elif clustered:
        if not places or in_path.strip("0") or options.get("database", "0") != "0":
            wrong = "names a database, and a Redis Cluster has none" if places else "names no node"
            raise ConfigError(f"this {scheme}:// address {wrong}; say {scheme}://host:port,host:port/?partitions=64")
    elif len(places) > 1:
        several = f"sentinels are {scheme}+sentinel://host,host/master, nodes of a cluster {scheme}+cluster://host,host"
        raise ConfigError(f"this {scheme}:// address names several hosts; {several}")
    database = options.get("database", in_path or "0")
    if not database.isdecimal():
        raise ConfigError(f"a database of Redis is a number, got {database!r}; a namespace is given as ?namespace=name")
    host, port = places[0] if places and not master else ("localhost", PORT)
    return Address(
        host=host,
        port=port,
        path=path if scheme == "unix" else "",
        sentinels=places if master else (),
        master=master,
        sentinel_user=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
        database=int(database),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=scheme.startswith("rediss"),
        ca=options.get("ca", ""),
        namespace=options.get("namespace", "default"),
        ledger=options.get("ledger") == "on",
        busy_poll=options.get("busy_poll") != "off",
        clustered=clustered,
        nodes=tuple(places) if clustered else (),
        partitions=_partitions(options.get("partitions", "64")) if clustered else 0,
    )


def _places(parts: SplitResult, port: int) -> list[Place]:
    """Host and port of each that is named. Raises ValueError."""
    hosts = parts.netloc.rpartition("@")[2]
    if not hosts:
        return []
    found = [urlsplit(f"//{one}") for one in hosts.split(",")]
    return [(one.hostname or "localhost", one.port or port) for one in found]


def _partitions(given: str) -> int:
    if not given.isascii() or not given.isdecimal() or not 1 <= int(given) <= MOST_PARTITIONS:
        raise ConfigError(f"partitions is a whole number from 1 to {MOST_PARTITIONS:,}, got {given!r}")
    return int(given)


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, given in options.items():
        if name not in _OPTIONS:  # what is unknown may be a secret: it is named, its value is not
            raise ConfigError(
                f"unknown option {name!r} in this address; the options are {', '.join(f'{k} ({v})' for k, v in _OPTIONS.items())}"
            )
        if name == "namespace" and not _NAMESPACE.fullmatch(given):
            raise ConfigError(f"a namespace has 1 to 64 letters, digits or _ . : -, got {given!r}")
        if name in ("ledger", "busy_poll") and given not in ("on", "off"):
            raise ConfigError(f"{name} is on or off, got {given!r}")
    return options
