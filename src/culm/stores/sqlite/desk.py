"""A desk is one thread with one connection: it does whatever has gathered in one transaction, so one fsync serves many calls.

While a transaction runs, the next calls gather. One that fails does not harm the others: the transaction is rolled back and
each is done again in a transaction of its own, so what is handed in must be safe to repeat.

A thread that wants the interpreter back waits for its lock after every statement, so statements here are few and large; what comes
alone and is one statement needs no other to begin and to commit its transaction. Where even that takes less time than the way to the
thread and back, it is done on the spot.
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
from culm.stores.sqlite.spot import Small, Spot
from culm.stores.sqlite.turns import short_turns

T = TypeVar("T")
log = logging.getLogger("culm.sqlite")

BUSY_PAUSE_S = 0.0003  # another process writes: its transactions are this short
BUSY_GIVE_UP_S = 10.0

# What lies in what was handed in, and will be there the next time, too; anything else is the state of the file or of the machine.
_REFUSALS = (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_RANGE)
_OURS = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.NotSupportedError, OverflowError, UnicodeError)

Work: TypeAlias = Callable[[sqlite3.Connection], Any]
Answer: TypeAlias = tuple["asyncio.Future[Any]", Any, Exception | None]


class Call:
    """What somebody asks of a desk.

    Attributes:
        small: the same for the spot, if it may be done there.
        is_large: it writes so many jobs that others have time for something else meanwhile.
    """

    def __init__(self, work: Work, at_once: Work | None, small: Small | None, *, is_large: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._work = work
        self._at_once = at_once
        self.small = small
        self.is_large = is_large

    @property
    def is_short(self) -> bool:
        """One statement may do."""
        return self._at_once is not None

    def do(self, connection: sqlite3.Connection) -> Any:
        """Within a transaction."""
        result = self.do_at_once(connection)
        return self._work(connection) if result is None else result

    def do_at_once(self, connection: sqlite3.Connection) -> Any:
        """By one statement; None: that cannot be, and nothing was done."""
        if self._at_once is None:
            return None
        result = self._at_once(connection)
        if result is None:
            self._at_once = None
        return result


class Desk:
    """Does work on a connection, in transactions.

    Args:
        line: the connection, opened at first use; of a desk that writes, one that does not wait for locks.
        begin: "IMMEDIATE" for a desk that writes, "DEFERRED" for one that reads.
        begun: called when something is about to be written, by whoever has the line; True: it will take longer for once.
        done: called there after each transaction, before anybody hears of it, with whether it was committed.
    """

    def __init__(
        self,
        line: Line,
        *,
        begin: Literal["IMMEDIATE", "DEFERRED"],
        begun: Callable[[], bool] = lambda: False,
        done: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._line = line
        self._begin = f"BEGIN {begin}"
        self._begun = begun
        self._done = done
        self._spot = Spot(line, begun=begun, done=done)
        self._unanswered = 0  # calls that the thread has, or will have
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    async def do(
        self,
        work: Callable[[sqlite3.Connection], T],
        at_once: Callable[[sqlite3.Connection], T | None] | None = None,
        *,
        small: Small | None = None,
        is_large: bool = False,
    ) -> T:
        """The work's result, once its transaction is committed. Raises StoreUnavailable (it may have happened) and StoreError.

        Args:
            at_once: does the same, all or nothing, without a transaction around it, and is tried first; None: it cannot, and did nothing.
            small: the same, where it may be done on the spot.
            is_large: it writes so many jobs that others have time for something else meanwhile.
        """
        if small is not None and (found := self.do_on_the_spot(small)) is not None:
            done: T = found
            return done
        call = Call(work, at_once, small, is_large=is_large)
        self._put(call)
        result: T = await call.future
        return result

    def do_on_the_spot(self, small: Small) -> Any:
        """Its result; None: it is for the thread, which may find it done already."""
        return None if self._unanswered or self._closed else self._spot.do(small)

    def _put(self, call: Call) -> None:
        with self._lock:  # a call behind the end of a closing desk would never be answered
            if self._closed:
                raise StoreError("this store was closed; open it anew")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="culm-sqlite", daemon=True)
                self._thread.start()
            self._calls.put(call)
            self._unanswered += 1
            if call.is_large:
                short_turns.begin()

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
        self._unanswered = 0
        self._thread = None
        self._lock = threading.Lock()

    # -- on the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            last = False
            while not last:
                calls, last = self._gathered()
                answers = self._transact(calls)
                with self._lock:
                    self._unanswered -= len(calls)
                for _ in [call for call in calls if call.is_large]:
                    short_turns.end()
                _answer([(call.loop, answer) for call, answer in zip(calls, answers, strict=True)])
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
            return [(call.future, result, None) for call, result in zip(calls, self._attempt(calls), strict=True)]
        except Exception as e:  # noqa: BLE001  # whatever a work raises, its caller must hear of it and the desk go on
            locked = isinstance(e, sqlite3.Error) and _is_busy(e)  # for all of them: to wait again for each would only take longer
            if len(calls) > 1 and not locked:
                return [answer for call in calls for answer in self._transact([call])]
            traceback.clear_frames(e.__traceback__)  # a cursor there would keep the connection from closing
            return [(call.future, None, translated(e)) for call in calls]

    def _attempt(self, calls: list[Call]) -> list[Any]:
        give_up_at = time.monotonic() + BUSY_GIVE_UP_S
        short = len(calls) == 1 and calls[0].is_short
        while calls:
            with self._line as connection:
                self._spot.left(connection)
                if connection.in_transaction:  # of somebody who was interrupted: what joined it would never be committed
                    connection.rollback()
                try:
                    if short and (result := self._done_at_once(connection, calls[0])) is not None:
                        return [result]
                    short = False
                    connection.execute(self._begin)
                except sqlite3.OperationalError as e:
                    if not _is_busy(e) or time.monotonic() > give_up_at:
                        raise
                    self._spot.was_slow()
                    short = False  # to put a statement together only to hear that the file is locked costs more than to ask for the lock
                else:
                    return self._done_all(connection, calls)
            time.sleep(BUSY_PAUSE_S)  # off the line: the process may fork meanwhile
        return []

    def _done_at_once(self, connection: sqlite3.Connection, call: Call) -> Any:
        started = time.perf_counter()
        takes_longer = self._begun()
        result = call.do_at_once(connection)
        if result is not None:
            if call.small is not None and not takes_longer:
                self._spot.measured(time.perf_counter() - started, call.small)
            self._done(True)
        return result

    def _done_all(self, connection: sqlite3.Connection, calls: list[Call]) -> list[Any]:
        try:
            self._begun()
            results = [call.do(connection) for call in calls]
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
