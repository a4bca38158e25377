"""A test that hangs is named, shows where each thread and task waits, and fails: the rest of the run goes on."""

import asyncio
import contextlib
import faulthandler
import gc
import io
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_S = 600.0  # the longest test, a shrinking history on a slow machine, took 311
"""Seconds that one test may take, with the set-up and the end of its fixtures."""
GRACE_S = 60.0
STDERR = pytest.StashKey[int]()


def stacks() -> str:
    """Where every thread and every unfinished task of this process is, and which processes it has started."""
    out = io.StringIO()
    with tempfile.TemporaryFile("w+") as threads:
        faulthandler.dump_traceback(threads, all_threads=True)
        threads.seek(0)
        out.write(threads.read())
    for thing in gc.get_objects():
        if issubclass(type(thing), asyncio.Task) and not thing.done():  # asked for their class, some things raise
            thing.print_stack(file=out)
    for pid, command in descendants("self"):
        out.write(f"process {pid}: {command}\n")
    return out.getvalue()


def descendants(pid: str) -> Iterator[tuple[str, str]]:
    """The id and the command line of every process below `pid`, as far as /proc tells."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # gone meanwhile
            for child in listing.read_text().split():
                yield child, Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield from descendants(child)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the way to the real stderr, which tests have captured."""
    config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fail the test, with `stacks`, once it has run for `LIMIT_S`; where that does not end it (a loop may only log what a handler raises),
    end the process, which xdist replaces."""
    alarms = 0

    def hangs(*_: object) -> None:
        nonlocal alarms
        alarms += 1
        try:
            found = f"{item.nodeid} hangs: not done after {LIMIT_S:g} s\n{stacks()}"
            os.write(item.config.stash[STDERR], found.encode())
        finally:
            if alarms > 1:
                os._exit(1)
        pytest.fail(found, pytrace=False)

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, GRACE_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
