"""A desk is one thread with one connection: it does whatever has gathered in one transaction, so one fsync serves many calls.

While a transaction runs, the next calls gather. One that fails does not harm the others: the transaction is rolled back and
each is done again in a transaction of its own, so what is handed in must be safe to repeat.

A thread that wants the interpreter back waits for its lock after every statement, so statements here are few and large.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias, TypeVar

from culm.errors import StoreError, StoreUnavailable
from culm.stores.sqlite.line import Line

T = TypeVar("T")
log = logging.getLogger("culm.sqlite")

BUSY_PAUSE_S = 0.0003  # another process writes: its transactions are this short
BUSY_GIVE_UP_S = 10.0

# What lies in what was handed in, and will be there the next time, too; anything else is the state of the file or of the machine.
_REFUSALS = (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_RANGE)
_OURS = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.NotSupportedError, OverflowError, UnicodeError)

Work: TypeAlias = Callable[[sqlite3.Connection], Any]
Call: TypeAlias = tuple[Work, asyncio.AbstractEventLoop, "asyncio.Future[Any]"]
Answer: TypeAlias = tuple["asyncio.Future[Any]", Any, Exception | None]


class Desk:
    """Does work on a connection, in transactions.

    Args:
        line: the connection, opened at first use; of a desk that writes, one that does not wait for locks.
        begin: "IMMEDIATE" for a desk that writes, "DEFERRED" for one that reads.
        begun: called on the desk's thread when a transaction has begun.
        done: called there after each transaction, before anybody hears of it, with whether it was committed.
    """

    def __init__(
        self,
        line: Line,
        *,
        begin: Literal["IMMEDIATE", "DEFERRED"],
        begun: Callable[[], None] = lambda: None,
        done: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._line = line
        self._begin = f"BEGIN {begin}"
        self._begun = begun
        self._done = done
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The work's result, once its transaction is committed. Raises StoreUnavailable (it may have happened) and StoreError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put((work, loop, future))
        return await future

    def _put(self, call: Call) -> None:
        with self._lock:  # a call behind the end of a closing desk would never be answered
            if self._closed:
                raise StoreError("this store was closed; open it anew")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="culm-sqlite", daemon=True)
                self._thread.start()
            self._calls.put(call)

    async def close(self) -> None:
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            self._calls.put(None)
        if thread is not None:
            while thread.is_alive():  # a join would block the loop that the thread may still answer to
                await asyncio.sleep(0.001)

    def forked(self) -> None:
        """In the child of a fork: begin anew, without the parent's thread and its calls."""
        self._calls = SimpleQueue()
        self._thread = None
        self._lock = threading.Lock()

    # -- on the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            last = False
            while not last:
                calls, last = self._gathered()
                answers = self._transact(calls)
                _answer([(loop, a) for (_, loop, _), a in zip(calls, answers, strict=True)])
        finally:
            self._line.close()

    def _gathered(self) -> tuple[list[Call], bool]:
        call, calls = self._calls.get(), []
        while call is not None:
            calls.append(call)
            try:
                call = self._calls.get_nowait()
            except Empty:
                return calls, False
        return calls, True

    def _transact(self, calls: list[Call]) -> list[Answer]:
        try:
            results = self._attempt([work for work, _, _ in calls])
            return [(future, result, None) for (_, _, future), result in zip(calls, results, strict=True)]
        except Exception as e:  # noqa: BLE001  # whatever a work raises, its caller must hear of it and the desk go on
            locked = isinstance(e, sqlite3.Error) and _is_busy(e)  # for all of them: to wait again for each would only take longer
            if len(calls) > 1 and not locked:
                return [answer for call in calls for answer in self._transact([call])]
            traceback.clear_frames(e.__traceback__)  # a cursor there would keep the connection from closing
            return [(future, None, translated(e)) for _, _, future in calls]

    def _attempt(self, works: list[Work]) -> list[Any]:
        give_up_at = time.monotonic() + BUSY_GIVE_UP_S
        while works:
            with self._line as connection:
                if self._began(connection, give_up_at):
                    return self._done_all(connection, works)
            time.sleep(BUSY_PAUSE_S)  # off the line: the process may fork meanwhile
        return []

    def _began(self, connection: sqlite3.Connection, give_up_at: float) -> bool:
        try:
            connection.execute(self._begin)
        except sqlite3.OperationalError as e:
            if not _is_busy(e) or time.monotonic() > give_up_at:
                raise
            return False
        return True

    def _done_all(self, connection: sqlite3.Connection, works: list[Work]) -> list[Any]:
        try:
            self._begun()
            results = [work(connection) for work in works]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._done(False)
            raise
        self._done(True)
        return results


def _answer(answers: list[tuple[asyncio.AbstractEventLoop, Answer]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for loop, answer in answers:
        by_loop.setdefault(loop, []).append(answer)
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, some)
        except RuntimeError:  # the loop was closed: nobody waits there any more
            continue


def _resolve(answers: list[Answer]) -> None:
    for future, result, error in answers:
        if future.done():
            continue  # its caller was cancelled
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0: the driver's own error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translated(error: Exception) -> Exception:
    """The driver's error in the store's words: StoreError if this work can never be written, StoreUnavailable if another time it may."""
    if isinstance(error, _OURS) or (isinstance(error, sqlite3.Error) and _code(error) in _REFUSALS):
        return StoreError(f"the database refused: {error}")
    if isinstance(error, MemoryError):
        return StoreUnavailable("there was no memory for it")
    if not isinstance(error, sqlite3.Error):
        return error
    if _is_busy(error):
        return StoreUnavailable(f"the database stayed locked by another process for {BUSY_GIVE_UP_S:g} s")
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):  # no job's fault: what it did must not be thrown away for it
        return StoreUnavailable(f"the database file is damaged ({error}); stop all processes that use it, and repair or replace it")
    return StoreUnavailable(f"the database cannot be used now: {error}")
