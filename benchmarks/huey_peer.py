"""huey on SQLite, as its documentation configures it for throughput: WAL, 8 threads, no results. Each run of the task leaves a time stamp."""

from __future__ import annotations

import os
import time

from huey import SqliteHuey  # type: ignore[import-untyped]  # it ships no types

huey = SqliteHuey("bench", filename=os.environ["HUEY_DB"], results=False)
STAMPS = os.environ["HUEY_STAMPS"]
_out = os.open(STAMPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@huey.task()  # type: ignore[untyped-decorator]  # the same
def noop(x: int) -> None:
    os.write(_out, b"%.6f\n" % time.time())


if __name__ == "__main__":
    from benchmarks import huey_peer  # the tasks carry the module's name: not "__main__"

    for i in range(int(os.environ["HUEY_N"])):
        huey_peer.noop(i)
