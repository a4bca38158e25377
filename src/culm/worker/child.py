"""A process that runs `runs_in="process"` tasks for a worker, one after another: `python -m culm.worker.child FD PARENT`.

It speaks MessagePack over a socket, four bytes of length before each message, and nothing is ever unpickled. It imports the module of
the first task that it is told to run. A task's prints go where the worker's go.
"""

from __future__ import annotations

import asyncio
import contextvars
import resource
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from importlib import import_module
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import Struct

from culm import decide
from culm.app import App
from culm.commit import Event, Trigger
from culm.current import Attempt, Effects, ReadEvent, enter
from culm.errors import ConfigError, Reject, RetryLater
from culm.job import Delivery, Job
from culm.outcome import Fault
from culm.task import AnyTask
from culm.worker.leash import die_with

NEWS_S = 0.25


class Call(Struct, frozen=True, array_like=True, tag=1):
    """Run this."""

    path: list[str]  # where modules are looked for
    module: str
    url: str | None  # of the app
    memory: int | None  # bytes of data that the process may have
    delivery: Delivery
    args: bytes
    events: dict[str, list[tuple[str, bytes]]]  # key and value


class News(Struct, frozen=True, array_like=True, tag=2):
    """What `current().progress` said."""

    fraction: float
    note: str


class Returned(Struct, frozen=True, array_like=True, tag=3):
    value: bytes
    send: list[Job]
    emit: list[Event]
    triggers: list[Trigger]


class Raised(Struct, frozen=True, array_like=True, tag=4):
    fault: Fault
    counts: bool  # the task's policy retries such an error
    reject: bool = False
    later: bool = False
    after: float | None = None


Reply: TypeAlias = News | Returned | Raised

encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(Call).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def framed(message: Struct) -> bytes:
    body = encode(message)
    return len(body).to_bytes(4, "big") + body


class Child:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._attempt: Attempt | None = None
        self._loop: asyncio.Runner | None = None

    def serve(self) -> None:
        """Until the worker has gone."""
        threading.Thread(target=self._report, daemon=True).start()
        while head := self._socket.recv(4, socket.MSG_WAITALL):
            call = decode_call(self._socket.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
            reply = contextvars.copy_context().run(self._run, call)
            self._attempt = None
            self._say(reply)

    def _say(self, message: Reply) -> None:
        with self._lock:
            self._socket.sendall(framed(message))

    def _report(self) -> None:
        pause = threading.Event()
        while not pause.wait(NEWS_S):
            attempt = self._attempt
            if attempt is not None and attempt.news is not None:
                (fraction, note), attempt.news = attempt.news, None
                self._say(News(fraction, note))

    def _run(self, call: Call) -> Reply:
        task: AnyTask | None = None
        try:
            _limit(call.memory)
            task = find_task(call)
            attempt = self._attempt = Attempt(call.delivery, call.delivery.job, task.app)
            attempt.events = {topic: [ReadEvent(key, value, task.app.kinds) for key, value in some] for topic, some in call.events.items()}
            enter(attempt)
            if task.app.tracing is not None:
                task.app.tracing.go_on(attempt.job)
            args, kwargs = task.signature.decode_call(call.args)
            value = task.fn(*args, **kwargs)
            if task.is_async:
                self._loop = self._loop or asyncio.Runner()
                # In the context of this job: by itself it would run each in that of the first.
                value = self._loop.run(cast("Coroutine[Any, Any, Any]", value), context=contextvars.copy_context())
            effects = attempt.effects or Effects()
            attempt.over = True
            return Returned(task.signature.encode_result(value), effects.send, effects.emit, effects.triggers)
        except BaseException as e:  # noqa: BLE001  # it travels, whatever it is
            return _raised(e, task)


def _raised(error: BaseException, task: AnyTask | None) -> Raised:
    counts = task is not None and isinstance(error, task.retry.on)
    later = isinstance(error, RetryLater)
    after = error.after if isinstance(error, RetryLater) else None
    return Raised(decide.fault_of(error), counts, isinstance(error, Reject), later, None if after is None else float(after))


def _limit(memory: int | None) -> None:
    """Beyond it, an allocation is a MemoryError."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (hard if memory is None else memory, hard))


def find_task(call: Call) -> AnyTask:
    """The task, from the module that defines it. Raises ConfigError."""
    if sys.path != call.path:
        sys.path[:] = call.path
    module = import_module(call.module)
    name = call.delivery.job.task
    for value in vars(module).values():
        app = value if isinstance(value, App) else getattr(value, "app", None)
        if isinstance(app, App) and name in app.tasks:
            app.url = call.url or app.url
            return app.tasks[name]
    raise ConfigError(f"task {name!r} is not found when {call.module} is imported; a task that runs in a process must be at its top level")


def main() -> None:
    fd, parent = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the worker's affair
    die_with(parent, signal.SIGKILL)  # nobody would read what it returns
    with socket.socket(fileno=fd) as sock:
        sock.set_inheritable(False)
        Child(sock).serve()


if __name__ == "__main__":
    from culm.worker.child import main as really  # not as __main__: its classes exist once

    really()
