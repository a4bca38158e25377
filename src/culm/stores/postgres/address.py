"""`postgresql://[user[:password]@]host[:port][,host...]/database?schema=culm`, and the other options.

What the server's own library knows (`sslmode`, `sslrootcert`, `host=/socket/folder`, a password file, PG* variables) means the same here.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from msgspec import Struct

from culm.errors import ConfigError

EXAMPLE = "postgresql://user:password@host:5432/database"
MOST_CONNECTIONS = 100

_OPTIONS = {
    "schema": "where culm's tables are, a name; culm unless told",
    "connections": f"at most so many of this process' each event loop, 2 to {MOST_CONNECTIONS}",
    "listen": "on|off; off for a pooler in transaction mode, and then everybody polls",
    "durability": "full|relaxed; relaxed accepts a server that does not wait for its disk",
    "ledger": "on|off",
}
_LIBRARY = ("host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "passfile", "target_session_attrs")
_CHOICES = {"listen": ("on", "off"), "durability": ("full", "relaxed"), "ledger": ("on", "off")}
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class Address(Struct, frozen=True, kw_only=True):
    dsn: str  # for the driver: without culm's own options, with the password
    shown: str  # for people: without user, password and options
    schema: str = "culm"
    connections: int = 4
    listen: bool = True
    relaxed: bool = False
    ledger: bool = False

    def __str__(self) -> str:
        return self.shown


def parse(url: str) -> Address:
    """Raises ConfigError, which never holds the password."""
    try:
        parts = urlsplit(url)
        _ = [urlsplit(f"//{one}").port for one in parts.netloc.rpartition("@")[2].split(",")]
    except ValueError:
        raise ConfigError(f"this postgresql:// address has no valid host and port; say {EXAMPLE}") from None
    hosts, database = parts.netloc.rpartition("@")[2], unquote(parts.path.strip("/"))
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts = hosts or given.get("host", "localhost")
    if not database or "/" in database:
        raise ConfigError(f"the postgresql:// address of {hosts} names no database; say {EXAMPLE}")
    ours = {name: _checked(name, value) for name, value in given.items() if name not in _LIBRARY}
    library = {name: value for name, value in given.items() if name in _LIBRARY}
    return Address(
        dsn=f"postgresql://{parts.netloc}/{quote(database)}" + (f"?{urlencode(library)}" if library else ""),
        shown=f"postgresql://{hosts}/{database}",
        schema=ours.get("schema", "culm"),
        connections=int(ours.get("connections", "4")),
        listen=ours.get("listen") != "off",
        relaxed=ours.get("durability") == "relaxed",
        ledger=ours.get("ledger") == "on",
    )


def _checked(name: str, value: str) -> str:
    if name not in _OPTIONS:  # what is unknown may be a secret: it is named, its value is not
        known = ", ".join(f"{k} ({v})" for k, v in _OPTIONS.items())
        raise ConfigError(f"unknown option {name!r} in this address; the options are {known}, and {', '.join(_LIBRARY)}")
    if name == "schema" and not _SCHEMA.fullmatch(value):
        raise ConfigError(f"a schema's name has 1 to 40 letters, digits or _, and begins with no digit, got {value!r}")
    if name == "connections" and not (value.isdecimal() and 2 <= int(value) <= MOST_CONNECTIONS):
        raise ConfigError(f"connections is a number from 2 to {MOST_CONNECTIONS}, got {value!r}")
    if value not in _CHOICES.get(name, (value,)):
        raise ConfigError(f"{name} is {' or '.join(_CHOICES[name])}, got {value!r}")
    return value
