"""`redis://[user:password@]host[:port][/database]`, `rediss://` (TLS), `unix://[user:password@]/path/to.sock`, and their options."""

from __future__ import annotations

import re
import ssl
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from culm.errors import ConfigError

_OPTIONS = {
    "namespace": "a name",
    "database": "a number",
    "ca": "a file of trusted certificates (rediss only)",
    "ledger": "on|off",
}
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Address(Struct, frozen=True, kw_only=True):
    host: str = "localhost"
    port: int = 6379
    path: str = ""  # of a Unix socket; "": TCP
    database: int = 0
    user: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""
    namespace: str = "default"
    ledger: bool = False

    def __str__(self) -> str:
        """Without user and password."""
        place = f"unix://{self.path}" if self.path else f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}"
        return f"{place}/{self.database}" if not self.path else place

    @property
    def prefix(self) -> str:
        """Of every key: one hash tag, and the version of the layout."""
        return f"{{culm:{self.namespace}}}:1:"

    def tls_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(f"{self}: the certificates in {self.ca} cannot be read: {e}") from None


def parse(url: str) -> Address:
    """Raises ConfigError, which never holds the password."""
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"this {scheme}:// address has no valid host and port; say {scheme}://user:password@host:6379/0") from None
    options = _options(parts.query)
    path = unquote(parts.path)
    if scheme == "unix":
        if not path.startswith("/") or host:
            raise ConfigError("this unix:// address names no socket; say unix:///absolute/path.sock")
        database = options.get("database", "0")
    else:
        database = options.get("database", path.strip("/") or "0")
    if not database.isdecimal():
        raise ConfigError(f"a database of Redis is a number, got {database!r}; a namespace is given as ?namespace=name")
    return Address(
        host=host or "localhost",
        port=port or 6379,
        path=path if scheme == "unix" else "",
        database=int(database),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=scheme == "rediss",
        ca=options.get("ca", ""),
        namespace=options.get("namespace", "default"),
        ledger=options.get("ledger") == "on",
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, given in options.items():
        if name not in _OPTIONS:  # what is unknown may be a secret: it is named, its value is not
            raise ConfigError(
                f"unknown option {name!r} in this address; the options are {', '.join(f'{k} ({v})' for k, v in _OPTIONS.items())}"
            )
        if name == "namespace" and not _NAMESPACE.fullmatch(given):
            raise ConfigError(f"a namespace has 1 to 64 letters, digits or _ . : -, got {given!r}")
        if name == "ledger" and given not in ("on", "off"):
            raise ConfigError(f"ledger is on or off, got {given!r}")
    return options
