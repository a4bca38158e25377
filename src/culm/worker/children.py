"""Where `runs_in="process"` tasks run: in processes of their own, which are kept for the next job, and killed when theirs is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from math import inf
from pathlib import Path

import msgspec
from msgspec.structs import replace

from culm.current import Attempt, Effects
from culm.decide import Told
from culm.errors import ProcessDied, Reject, RetryLater
from culm.task import AnyTask
from culm.worker.child import Call, News, Raised, Reply, Returned, decode_reply, framed
from culm.worker.ending import ending


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
            process = self._one_that_lives() or await self._start()
            try:
                reply = await process.call(_call(attempt, task, args), attempt)
            except BaseException:
                self._all.discard(process)
                process.kill()
                raise
            self._idle.append(process)
        if isinstance(reply, Raised):
            raise _error(reply)
        if reply.send or reply.emit or reply.triggers:
            attempt.effects = effects = Effects()
            effects.send, effects.emit, effects.triggers = reply.send, reply.emit, reply.triggers
        return msgspec.Raw(reply.value)

    def _one_that_lives(self) -> _Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.lives():
                return process
            self._all.discard(process)
            process.kill()
        return None

    async def _start(self) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "culm.worker.child", str(theirs.fileno()), str(os.getpid())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603, ASYNC220  # it returns at once
        reader, writer = await asyncio.open_connection(sock=ours)
        child = _Process(process, reader, writer)
        self._all.add(child)
        return child

    def close(self) -> None:
        for process in self._all:
            process.kill()
        self._all.clear()
        self._idle.clear()


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
            code = await asyncio.get_running_loop().run_in_executor(None, self._process.wait)
            raise ProcessDied(f"the process of job {attempt.id} died: {ending(code)}") from None

    def lives(self) -> bool:
        return self._process.poll() is None and not self._reader.at_eof()

    def kill(self) -> None:
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


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
