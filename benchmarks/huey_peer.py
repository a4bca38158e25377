"""huey on SQLite, as its documentation configures it for throughput: WAL, 8 threads, no results.

Each run of the task leaves a time stamp. Run as a module it enqueues; the consumer imports it.
"""

from __future__ import annotations

import os
import time

from huey import SqliteHuey

huey = SqliteHuey("bench", filename=os.environ["HUEY_DB"], results=False)
STAMPS = os.environ["HUEY_STAMPS"]
_out = os.open(STAMPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@huey.task()  # type: ignore[untyped-decorator]  # the same
def noop(x: int) -> None:
    os.write(_out, b"%.6f\n" % time.time())


if __name__ == "__main__":
    import importlib

    tasks = importlib.import_module("benchmarks.huey_peer")  # they carry the module's name: not "__main__"
    for i in range(int(os.environ["HUEY_N"])):
        tasks.noop(i)
