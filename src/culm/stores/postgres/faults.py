"""What the server, the driver or the network says, in the store's words. Nothing of them passes the store, and no password any message."""

from __future__ import annotations

import asyncpg

from culm.errors import ConfigError, CulmError, StoreError, StoreFull, StoreUnavailable

NOT_PLAIN = "CULM1"  # what 30_plain.sql raises
AGAIN = ("40001", "40P01")  # two transactions were in each other's way: this one was undone, and may be repeated at once
_NEVER = ("21", "22", "23", "42", "54")  # classes of what lies in the request itself, and will be there the next time, too
_WRONG_USER = ("28P01", "28000")
_POOLED = ("26000", "42P05")  # a prepared statement that is not there, or is somebody else's
_MIGRATE = ("3F000", "42P01", "42883", "42703")


def state_of(error: Exception) -> str:
    """The server's code; "": it did not come from there."""
    return getattr(error, "sqlstate", None) or ""


def translated(error: Exception, where: str) -> CulmError:
    if isinstance(error, CulmError):
        return error
    code, said = state_of(error), str(error).partition("\n")[0]
    if code in _WRONG_USER:
        return ConfigError(f"{where} refuses this user: {said}; check user and password of the address, and the server's pg_hba.conf")
    if code == "3D000":
        return ConfigError(f"{where}: {said}; create it, or correct the address")
    if code == "42501":
        return ConfigError(f"{where}: {said}; let its owner run: culm migrate URL --grant ROLE")
    if code in _MIGRATE:
        return ConfigError(f"{where}: culm's schema there is missing or damaged ({said}); run: culm migrate URL")
    if code in _POOLED:
        return ConfigError(f"{where} is a pooler that does not keep what a session prepared; add ?listen=off to the address")
    if code == "53100":
        return StoreFull(f"{where} has no room on its disk: nothing was written; free some space, and the same succeeds")
    if code == "53300":
        return StoreUnavailable(
            f"{where} has no connection left ({said}); raise its max_connections, or lower ?connections= of the workers"
        )
    if isinstance(error, asyncpg.DataError) or code[:2] in _NEVER or isinstance(error, ValueError | TypeError):
        return StoreError(f"{where} refused: {said}")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"{where} did not answer in time")
    if isinstance(error, OSError):
        return StoreUnavailable(f"cannot connect to {where}: {error.strerror or type(error).__name__}")
    return StoreUnavailable(f"{where} cannot do it now: {said or type(error).__name__}")
