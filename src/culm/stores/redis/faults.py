"""What the server or the network says, in the store's words. Nothing of a driver passes the store, and no password any message."""

from __future__ import annotations

import re

from culm.errors import ConfigError, CulmError, StoreError, StoreFull, StoreUnavailable

# A script wraps the error of a command in its own: the code may stand anywhere.
_LATER = re.compile(r"\b(LOADING|BUSY|READONLY|MASTERDOWN|MISCONF|NOREPLICAS|TRYAGAIN|CLUSTERDOWN|UNBLOCKED|killed by user)\b")
_NEVER = re.compile(r"\b(NOAUTH|WRONGPASS|NOPERM|invalid password|invalid username|ERR AUTH|DB index is out of range)\b")


def translated(message: str) -> CulmError:
    """The error that a reply is."""
    if re.search(r"\bOOM\b", message):
        return StoreFull("Redis is full (maxmemory): nothing was written; let workers drain it, or raise maxmemory")
    if _LATER.search(message):
        return StoreUnavailable(f"Redis cannot do it now: {message}")
    if _NEVER.search(message):
        return ConfigError(f"Redis refuses this user: {message}; check user, password and database of the address, and the user's ACL")
    return StoreError(f"Redis refused: {message}")


def wants_another_server(message: str) -> bool:
    """This connection leads to a server that does not take writes any more: connect anew."""
    return re.search(r"\b(READONLY|MASTERDOWN|NOREPLICAS)\b", message) is not None
