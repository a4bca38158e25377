"""Where `runs_in="process"` tasks run: in processes of their own, which are kept for the next job, and killed when theirs is stopped.

Each leads a group, which is killed with it: what its task has started does not outlive it. Nothing here blocks the loop: who was killed
may take a while to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

import msgspec
from msgspec.structs import replace

from culm.current import Attempt, Effects
from culm.decide import Told
from culm.errors import ProcessDied, Reject, RetryLater
from culm.task import AnyTask
from culm.worker.child import Call, News, Raised, Reply, Returned, decode_reply, framed
from culm.worker.ending import ending, has_ended

LAST_S = 1.0  # who ended, or was killed, is waited for so long


class Children:
    """Runs at most `most` jobs at once; by default as many as there are processors for this process."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most or len(os.sched_getaffinity(0))
        self._room = asyncio.Semaphore(self.most)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def run(self, attempt: Attempt, task: AnyTask, args: bytes) -> msgspec.Raw:
        """The encoded result. What the task sent and emitted joins the attempt.

        Raises Told, Reject and RetryLater (what it raised), ProcessDied. A cancellation kills the process.
        """
        attempt.ends_at = inf
        async with self._room:
            attempt.ends_at = 0.0  # its time begins now: the next scan says when it ends
            process = await self._one_that_lives() or await self._start()
            try:
                reply = await process.call(_call(attempt, task, args), attempt)
            except BaseException:
                await self._end(process)
                raise
            self._idle.append(process)
        if isinstance(reply, Raised):
            raise _error(reply)
        if reply.send or reply.emit or reply.triggers:
            effects = attempt.effects = attempt.effects or Effects()
            effects.send += reply.send
            effects.emit += reply.emit
            effects.triggers += reply.triggers
        return msgspec.Raw(reply.value)

    async def _one_that_lives(self) -> _Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.lives():
                return process
            await self._end(process)
        return None

    async def _end(self, process: _Process) -> None:
        """Kill it. If it does not go yet, it is looked after when all end."""
        process.kill()
        if await process.ended() is not None:
            self._all.discard(process)

    async def _start(self) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "culm.worker.child", str(theirs.fileno()), str(os.getpid())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603, ASYNC220  # it returns at once
        reader, writer = await asyncio.open_connection(sock=ours)
        child = _Process(process, reader, writer)
        self._all.add(child)
        return child

    def kill(self) -> None:
        for process in self._all:
            process.kill()
        self._idle.clear()

    async def ended(self) -> None:
        """Those that were killed have gone, if the kernel lets them."""
        await asyncio.gather(*(process.ended() for process in self._all))
        self._all.clear()


class _Process:
    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    async def call(self, call: Call, attempt: Attempt) -> Raised | Returned:
        try:
            self._writer.write(framed(call))
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                reply: Reply = decode_reply(await self._reader.readexactly(size))
                if not isinstance(reply, News):
                    return reply
                attempt.news = (reply.fraction, reply.note)
        except (asyncio.IncompleteReadError, ConnectionError):
            await _until(lambda: has_ended(self._process.pid))  # or it has only closed its end
            self.kill()
            code = await self.ended()
            how = "it was killed, and does not end" if code is None else ending(code)
            raise ProcessDied(f"the process of job {attempt.id} died: {how}") from None

    def lives(self) -> bool:
        return not has_ended(self._process.pid) and not self._reader.at_eof()

    def kill(self) -> None:
        """And what its task has started. It is not waited for."""
        self._writer.close()
        if self._process.returncode is None:  # else its number may be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> int | None:
        """Its exit code; None: it does not end."""
        await _until(lambda: self._process.poll() is not None)
        return self._process.returncode


async def _until(is_so: Callable[[], bool]) -> None:
    """Polled: a thread that waits for a process could not be stopped, and would keep this one."""
    loop, pause_s = asyncio.get_running_loop(), 0.001
    ends_at = loop.time() + LAST_S
    while not is_so() and loop.time() < ends_at:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)


def _call(attempt: Attempt, task: AnyTask, args: bytes) -> Call:
    events = {topic: [(e.key, e.raw) for e in some] for topic, some in attempt.events.items()}
    delivery, tracing = attempt.delivery, task.app.tracing
    if tracing is not None:
        delivery = replace(delivery, job=tracing.onward(attempt.job))
    return Call(sys.path, _module(task), task.app.url, task.memory, delivery, args, events)


def _module(task: AnyTask) -> str:
    """Under which name another process imports it."""
    module = task.fn.__module__
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return str(spec.name) if spec is not None else Path(file).stem if file else module


def _error(raised: Raised) -> Exception:
    if raised.reject:
        return Reject(raised.fault.message)
    if raised.later:
        return RetryLater(raised.fault.message, after=raised.after)
    return Told(raised.fault, counts=raised.counts)
