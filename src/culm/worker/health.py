"""Is this worker well? A file whose time of change says when the store last answered its claims, or `/livez` and `/readyz` over HTTP.

Only the loop that does the work writes here (`tick`), and only what the claimer heard from the store counts: a loop that is blocked, a
process that stands still and a store that is away all let the file grow old and the answers turn bad by themselves.
*Live* is a loop that ticks: what is not wants a restart. *Ready* is live, with a store that answers, and not about to stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from culm.errors import ConfigError
from culm.telemetry.address import Address, parse_address, unservable

if TYPE_CHECKING:
    from culm.worker.probes import Probes

log = logging.getLogger("culm.worker")

RENEW_S = 0.5  # at most so often is the file touched


class Health:
    """Args:
        where: HOST:PORT of this machine, or a file.
        stuck_s: a loop that has not ticked for so long stands still.
        fresh_s: an answer of the store that is older than that is none.

    Raises ConfigError: that cannot be.
    """

    def __init__(self, where: str, *, stuck_s: float, fresh_s: float) -> None:
        self._stuck_s = stuck_s
        self._fresh_s = fresh_s
        self._ticked = time.monotonic()
        self._good = 0.0
        self._unready = ""
        self._path: Path | None = None
        self._renewed = (0.0, 0.0)  # when, and as of when
        self._probes: Probes | None = None
        self.address: Address | None = None
        if re.fullmatch(r"(\[[^\]]*\]|[^:/]*):\d{1,5}", where):
            self._serve(parse_address(where, option="--health"))
        else:
            self._begin_file(Path(where))

    def tick(self, now: float, good: float, unready: str = "") -> None:
        """The loop turns: `good` is when the store last answered, both by the system's monotonic clock.

        Args:
            unready: why nothing should be expected of it all the same.
        """
        self._ticked, self._good, self._unready = now, good, unready
        if self._path is not None and good > self._renewed[1] and now - self._renewed[0] >= RENEW_S:
            self._renewed = (now, good)
            self._renew(self._path, time.time() - (now - good))

    def not_live(self) -> str:
        """Why it wants a restart; "": it does not."""
        age = time.monotonic() - self._ticked
        return f"its loop has not turned for {age:.1f} s" if age > self._stuck_s else ""

    def not_ready(self) -> str:
        """Why nothing should be expected of it; "": it works."""
        if why := self.not_live() or self._unready:
            return why
        if not self._good:
            return "the store has not answered yet"
        age = time.monotonic() - self._good
        return f"the store has not answered for {age:.1f} s" if age > self._fresh_s else ""

    def close(self) -> None:
        """The file is removed; nobody is answered any more."""
        if self._probes is not None:
            self._probes.close()
            self._probes = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._path = None

    # -- the file -------------------------------------------------------------------------------------------------------------

    def _begin_file(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)  # of one that was killed
            path.touch()  # better refused now than never renewed
            path.unlink()
        except OSError as e:
            raise ConfigError(f"--health {path}: it cannot be written: {e.strerror or e}; say a file in a folder of yours") from e
        self._path = path.absolute()

    def _renew(self, path: Path, seconds: float) -> None:
        try:
            path.touch()
            os.utime(path, (seconds, seconds))
        except OSError as e:
            log.warning("health.failed: %s cannot be touched: %s", path, e.strerror or e)

    # -- the endpoint ---------------------------------------------------------------------------------------------------------

    def _serve(self, address: Address) -> None:
        from culm.worker.probes import Probes  # what speaks HTTP is a megabyte that a worker without an endpoint does without

        try:
            self._probes = Probes(address, {"/livez": self.not_live, "/readyz": self.not_ready})
        except OSError as e:
            raise unservable(address, e, option="--health") from e
        self.address = self._probes.address
        log.info("health: http://%s/readyz", self.address)
