"""`sqlite:///relative.db`, `sqlite:////absolute.db`, with `?durability=full|relaxed`, `?on_loop=off` and `?ledger=on`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote

from culm.errors import ConfigError
from culm.stores.sqlite.store import SqliteStore

_KNOWN = {"durability": ("full", "relaxed"), "on_loop": ("on", "off"), "ledger": ("on", "off")}


def open_sqlite(url: str) -> SqliteStore:
    """Raises ConfigError and StoreUnavailable."""
    path = file_of(url)
    options = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    for name, value in options.items():
        if value not in _KNOWN.get(name, ()):
            known = ", ".join(f"{k}={'|'.join(v)}" for k, v in _KNOWN.items())
            what = f"{name}={value}" if name in _KNOWN else repr(name)  # what is unknown may be a secret
            raise ConfigError(f"unknown option {what} in the address of {path}; the options are {known}")
    durability: Literal["full", "relaxed"] = "relaxed" if options.get("durability") == "relaxed" else "full"
    return SqliteStore(path, durability=durability, ledger=options.get("ledger") == "on", on_loop=options.get("on_loop") != "off")


def file_of(url: str) -> Path:
    """The file that the address names. Raises ConfigError."""
    place = url.partition("?")[0].removeprefix("sqlite://")
    path = unquote(place[1:])
    if not place.startswith("/") or not path or path == ":memory:":
        raise ConfigError("this sqlite:// address names no file; say sqlite:///relative.db or sqlite:////absolute.db")
    return Path(path).absolute()
