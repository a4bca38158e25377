"""culm's command line with a supervisor that has a defect, which shows some time after its processes are up."""

import time

from culm.cli.main import run
from culm.worker.supervisor import Supervisor

look = Supervisor._look


def fails(self: Supervisor, now: float) -> None:
    look(self, now)
    ready = [place for place in self._all if place.ready]
    if any(place.board.head().begun for place in ready) and time.monotonic() - ready[0].started > 3:
        raise RuntimeError("a seeded defect")


if __name__ == "__main__":
    Supervisor._look = fails  # type: ignore[method-assign]
    run()
