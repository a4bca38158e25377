"""Addresses of several stores: `first|second|third`, or `sqlite:///folder?partitions=4`. docs/partitions.md has them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from culm.errors import ConfigError

MOST_PARTITIONS = 1_024


def partition_addresses(url: str) -> list[str] | None:
    """The addresses of the partitions, in their order; None: it is the address of one store. Raises ConfigError."""
    if "|" in url:
        return _several(url.split("|"))
    place, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not place.startswith("sqlite://") or "partitions" not in options:
        return None
    count = partition_count(options.pop("partitions"))
    folder = _folder(place)
    rest = f"?{urlencode(options)}" if options else ""
    return [f"sqlite:///{quote(str(folder / f'{n}.db'))}{rest}" for n in range(count)]


def partition_count(given: str) -> int:
    """Raises ConfigError."""
    if not given.isascii() or not given.isdecimal() or not 1 <= int(given) <= MOST_PARTITIONS:
        raise ConfigError(f"partitions is a whole number from 1 to {MOST_PARTITIONS:,}, got {given!r}")
    return int(given)


def _several(parts: list[str]) -> list[str]:
    for n, part in enumerate(parts):
        scheme = part.partition("://")[0]
        if not part or scheme == "memory":
            what = "a memory:// store, which nobody can open again" if part else "nothing"
            raise ConfigError(f"partition {n} of this address is {what}; say first|second|third, each the address of a store")
        if "+cluster" in scheme or "partitions=" in part:
            raise ConfigError(f"partition {n} of this address has partitions itself; name the stores that it is made of instead")
        if part in parts[:n]:
            raise ConfigError(f"partitions {parts.index(part)} and {n} of this address are the same store; each needs a place of its own")
    return parts


def _folder(place: str) -> Path:
    """The folder of the files, made if it is not there."""
    path = unquote(place.removeprefix("sqlite://")[1:])
    if not place.startswith("sqlite:///") or not path or path == ":memory:":
        raise ConfigError("this sqlite:// address names no folder; say sqlite:///folder?partitions=4")
    folder = Path(path).absolute()
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; with ?partitions= the address names a folder, which holds a file for each partition")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        raise ConfigError(f"the folder {folder} cannot be made: {e.strerror}") from None
    return folder
