"""One gatherer turns concurrent commits into batches: while one batch is in flight, the next collects. No timers, no tuning.

An idle gatherer sends at once. Each batch has a number, so resending it after a lost reply is a no-op in the store:
the gatherer resends by itself, with growing pauses, until `give_up_ms` have passed; then every commit of the batch is
unknown. A caller that is cancelled does not cancel the batch, and a refused commit does not harm the others.

A store that can be asked without a task (`Prompt`) is: its answer is a call. What is posted in one turn of the loop goes together; only
where commits have come one by one for a while does the next go out where it is posted, if the answer comes later.

Where the store applies in order what it is asked, a second batch may follow one that is not answered yet: the store works while
the next is put together. Each of the two senders has a name and numbers of its own, so a batch that has to be resent is not
taken for an old one because its successor came through. Until that is answered nothing newer is sent; nor while a batch
is under way that may take the store a second look.

Callers who are answered together post together, and would go in step for ever: the store waits for them, then they for it. So a large
batch goes in two halves, and the groups take turns from then on (`groups.py`). Two are as good as more, and each costs.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from math import inf
from weakref import ref

from culm.commit import Commit, Committed, weigh
from culm.errors import StoreError, StoreUnavailable
from culm.groups import OTHER_HALF, Caller, Groups, caller
from culm.sender import Answer, Batch, Sender, Told
from culm.store import InOrder, Prompt, Store

MAX_WEIGHT = 2_000  # effects of a batch, so that one batch does not hold up a store's other clients
ALONE = 4  # batches in a row, each of one commit with nothing beside it: then commits come one by one
HALVED = 32  # commits of a batch that goes in two halves, unless its callers take turns with others
MOST_WHOLE = 64  # commits of one that goes in two halves even then
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


class Gatherer:
    """Sends commits in batches, in the order in which they were posted, all on one event loop.

    Args:
        store: where they go.
        client: names this gatherer to the store; no other gatherer may ever use the name.
        give_up_ms: how long an unanswered batch is sent again; None: until `end_within`.
        rng: spreads the pauses between resends, so that clients do not return as a herd.
        for_callers: it is for those who await their sends: they gain where two batches are under way, or one is answered at once.

    Attributes:
        answered: called once for each batch, with its commits and their answers; must not raise.
    """

    def __init__(
        self, store: Store, *, client: str, give_up_ms: int | None = 10_000, rng: random.Random | None = None, for_callers: bool = False
    ) -> None:
        self.store = store
        self._give_up_s = inf if give_up_ms is None else give_up_ms / 1000
        self._ends_at = inf  # by the loop's clock
        self._rng = rng or random.Random()
        self.answered: Callable[[Sequence[Commit], Sequence[Answer]], None] | None = None
        self._commits: list[Commit] = []  # of the batch that collects
        self._thens: list[tuple[int, Told]] = []  # (index of its commit there, whom to tell)
        self._fresh = True
        self._room = 0  # weight that it can still take; 0: it has yet to begin
        self._first_caller: Caller = None  # who posted its first commit
        self._groups = Groups()
        self._full: deque[Batch] = deque()  # batches that have reached their weight, in order
        self._first = Sender(client)
        in_order = isinstance(store, InOrder)
        self._second = Sender(f"{client}+") if for_callers and in_order else None
        self._batches = 0
        self._prompt = store if isinstance(store, Prompt) and (for_callers or in_order) else None
        self._answers_later = self._prompt is not None and in_order
        self._loop: ref[asyncio.AbstractEventLoop] | None = None  # known, for asking which one runs is a system call in Python 3.11
        self._singles = 0  # so many of the last batches had one commit, and nothing beside it

    def post(self, commit: Commit, then: Told | None = None, *, weight: int = 1, fresh: bool = False) -> None:
        """Send the commit with the next batch, and tell `then` its answer: a future, or what is called with it and must not raise.

        Args:
            weight: how much the store writes for it, `weigh(commit)`: what is plain and small weighs 1.
            fresh: it sends new jobs under ids that were made just now, and does nothing else.
        """
        if self._singles >= ALONE and self._prompt is not None and self._is_idle():
            self._full.append(Batch([commit], [] if then is None else [(0, then)], fresh, None))
            self._ask(self._first, self._prompt, alone=True)
            return
        self._room = room = self._room - weight
        sender = self._begin_batch(weight) if room < 0 else None
        if then is not None:
            self._thens.append((len(self._commits), then))
        if not fresh:
            self._fresh = False
        self._commits.append(commit)
        if sender is not None:
            self._start(sender)

    def post_all(self, commits: Sequence[Commit], weight: int) -> None:
        """Send these with the next batch. Nobody is told their answers, but `answered` is.

        Args:
            weight: of all of them.
        """
        if len(commits) == 1:
            self.post(commits[0], weight=weight)
            return
        if not commits:
            return
        if weight > MAX_WEIGHT:
            if len(commits) == weight:
                for at in range(0, weight, MAX_WEIGHT):
                    part = commits[at : at + MAX_WEIGHT]
                    self.post_all(part, len(part))
            else:
                for commit in commits:
                    self.post(commit, weight=weigh(commit))
            return
        self._room = room = self._room - weight
        sender = self._begin_batch(weight) if room < 0 else None
        self._fresh = False
        self._commits.extend(commits)
        if sender is not None:
            self._start(sender)

    def submit(self, commit: Commit, *, weight: int | None = None, fresh: bool = False) -> asyncio.Future[Committed]:
        """Send the commit with the next batch; await its answer. Raises, there, StoreUnavailable (it may have happened) or StoreError.

        Args:
            weight, fresh: as of `post`; None: it is to be weighed.
        """
        loop = None if self._loop is None else self._loop()
        if loop is None:  # the first time, or that one is gone
            loop = asyncio.get_running_loop()
            self._loop = ref(loop)
        future: asyncio.Future[Committed] = loop.create_future()
        self.post(commit, future, weight=weigh(commit) if weight is None else weight, fresh=fresh)
        return future

    def unanswered(self) -> list[Commit]:
        """What was posted and is not answered yet, in order. From another thread: all of it, some of it perhaps twice.

        A commit goes from the collecting batch to the full ones to the one under way, and is there before it leaves where it was:
        asked in that order, none is missed.
        """
        collecting = self._commits
        full = list(self._full)
        under_way = [*self._first.under_way, *(self._second.under_way if self._second is not None else ())]
        return [*under_way, *chain.from_iterable(batch.commits for batch in full), *collecting]

    def end_within(self, ms: int) -> None:
        """What is not answered by then is unknown: whoever posts is about to go."""
        self._ends_at = asyncio.get_running_loop().time() + ms / 1000

    async def flush(self) -> None:
        """Return when all that was posted is answered."""
        while busy := [sender for sender in (self._first, self._second) if sender is not None and sender.busy]:
            await asyncio.wait([self._end_of(sender) for sender in busy])

    def _end_of(self, sender: Sender) -> asyncio.Future[None]:
        if sender.task is not None or not sender.asked:
            return sender.task or self._go_on(sender)
        if sender.told is None:
            sender.told = asyncio.get_running_loop().create_future()
        return sender.told

    def _start(self, sender: Sender) -> None:
        """It sends in the next turn of the loop: until then, commits gather."""
        if self._prompt is None:
            self._go_on(sender)
        else:
            self._send_soon(sender, self._prompt)

    def _send_soon(self, sender: Sender, store: Prompt) -> None:
        asyncio.get_running_loop().call_soon(self._send_at_once, sender, store)
        sender.busy = True

    def _go_on(self, sender: Sender) -> asyncio.Task[None]:
        task = sender.task = asyncio.get_running_loop().create_task(self._send(sender))
        sender.busy = True
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step tells nobody."""
        for sender in (self._first, self._second):
            if sender is not None and sender.task is task:
                self._rest(sender)

    def _rest(self, sender: Sender) -> None:
        if sender.batch is not None:  # its task was cancelled: somebody ends all tasks of the loop
            unknown = StoreUnavailable("what sends it was cancelled; it may have happened")
            self._settle(sender, sender.batch, [unknown] * len(sender.batch.commits))
        sender.task, sender.batch, sender.busy, sender.holds = None, None, False, False
        self._room = 0

    def _is_quiet(self, *, but: Sender) -> bool:
        """The other sender has nothing to do, and nothing is full."""
        other = self._second if but is self._first else self._first
        return not self._full and (other is None or not other.busy)

    def _is_idle(self) -> bool:
        """Nothing collects, and neither sender has anything to do."""
        return not (self._commits or self._full or self._first.busy or (self._second is not None and self._second.busy))

    def _send_at_once(self, sender: Sender, store: Prompt) -> None:
        """Send what has gathered, unless it had better wait."""
        if sender.task is not None or sender.asked:
            return  # a flush was quicker
        if self._is_little(sender):
            sender.busy = False
        else:
            self._ask(sender, store)

    def _ask(self, sender: Sender, store: Prompt, *, alone: bool = False) -> None:
        """Send the next batch, if there is one, without a task; where the store cannot be asked so, a task goes on.

        Args:
            alone: a commit has come that is alone, so there is one, and nothing else is under way.
        """
        asked = False
        try:
            sender.busy = True
            if alone or self._has_more(sender):
                batch = self._next_batch(sender)
                sender.asked = True
                then = partial(self._answered_at_once, sender, sender.number)
                asked = store.commit_at_once(batch.commits, batch=(sender.client, sender.number), alone=alone, fresh=batch.fresh, then=then)
        except Exception:  # noqa: BLE001, S110  # a task meets the same, and answers with it
            pass
        finally:  # a signal may raise in there: the batch goes on all the same, under its number
            if not asked:
                sender.asked, sender.holds = False, sender.batch is not None
                self._go_on_or_rest(sender)

    def _is_little(self, sender: Sender) -> bool:
        """Beside what the other has under way: it goes with what that sends next, or few would go beside many for ever."""
        other = self._second if sender is self._first else self._first
        under_way = 0 if other is None else len(other.under_way)
        return under_way > 2 * len(self._commits) and not self._full and sender.batch is None

    def _answered_at_once(self, sender: Sender, number: int, answers: Sequence[Answer] | None) -> None:
        """None: whether it was done the same batch will tell."""
        batch = sender.batch
        if not sender.asked or sender.number != number or batch is None:
            return  # a signal raised when it was asked, and a task went on
        sender.asked = False
        if sender.told is not None and not sender.told.done():
            sender.told.set_result(None)
        sender.told = None
        try:
            if answers is None:
                sender.holds = True
            else:
                self._settle(sender, batch, answers)
        finally:
            if sender.batch is not None or self._prompt is None:
                self._go_on_or_rest(sender)
            elif (self._full or self._commits) and self._has_more(sender):
                self._send_soon(sender, self._prompt)
            else:
                self._rest(sender)

    def _go_on_or_rest(self, sender: Sender) -> None:
        if sender.batch is not None or self._has_more(sender):
            self._go_on(sender)
        else:
            self._rest(sender)

    async def _send(self, sender: Sender) -> None:
        """The batch that is under way, and those after it."""
        try:
            while sender.batch is not None or self._has_more(sender):
                batch = sender.batch or self._next_batch(sender)
                commits = batch.commits
                answers = await self._answers(sender, commits, sender.begun_at)
                if len(commits) > 1 and isinstance(answers[0], Exception) and not isinstance(answers[0], StoreUnavailable):
                    sender.holds = True
                    answers = [await self._alone(sender, commit) for commit in commits]
                self._settle(sender, batch, answers)
        finally:
            self._rest(sender)

    def _settle(self, sender: Sender, batch: Batch, answers: Sequence[Answer]) -> None:
        """The batch is answered."""
        commits = batch.commits
        came_alone = self._answers_later and len(commits) == 1 and not self._commits and self._is_quiet(but=sender)
        self._singles = self._singles + 1 if came_alone else 0
        if answers.count("applied") < len(answers):
            answers = [_told(sender, commit, answer) for commit, answer in zip(commits, answers, strict=True)]
        if self.answered is not None:
            self.answered(commits, answers)
        sender.batch, sender.holds = None, False
        for index, then in batch.thens:
            answer = answers[index]
            if not isinstance(then, asyncio.Future):
                then(answer)
            elif then.done():
                continue  # its caller was cancelled
            elif isinstance(answer, Exception):
                then.set_exception(answer)
            else:
                then.set_result(answer)

    def _next_batch(self, sender: Sender) -> Batch:
        """What that sender is to send, under a new number."""
        if len(self._commits) >= HALVED and (other := self._idle()) is not None and self._are_for_two():
            self._halve()
            self._start(other)
        if not self._full:
            self._close_batch()
        batch = self._full[0]
        self._groups.sends(batch.first_caller)
        self._batches = sender.place = self._batches + 1
        sender.number += 1
        sender.begun_at = asyncio.get_running_loop().time()
        sender.holds = not batch.fresh
        sender.batch = batch
        self._full.popleft()
        return batch

    def _are_for_two(self) -> bool:
        """What collects, `HALVED` commits or more, is better sent in two halves."""
        if self._full or not self._fresh:
            return False
        return len(self._commits) >= MOST_WHOLE or not self._groups.takes_turns(self._first_caller)

    def _halve(self) -> None:
        """The older half of what collects is full."""
        commits, thens, half = self._commits, self._thens, len(self._commits) // 2
        older = [(index, then) for index, then in thens if index < half]
        self._full.append(Batch(commits[:half], older, self._fresh, self._first_caller))
        self._commits, self._thens = commits[half:], [(index - half, then) for index, then in thens if index >= half]
        self._first_caller = OTHER_HALF

    def _idle(self) -> Sender | None:
        if not self._first.busy:
            return self._first
        return self._second if self._second is not None and not self._second.busy else None

    def _begin_batch(self, weight: int) -> Sender | None:
        """The next batch begins with a commit of that weight, even if that alone is too much. Returns who is to start with it."""
        if self._commits:
            self._close_batch()
        if self._second is not None:
            self._first_caller = caller() if self._singles < ALONE else None  # who sends alone is in no group
        sender = self._idle()
        self._room = max(0, MAX_WEIGHT - weight)  # last: if a signal raises here, the next commit begins anew
        return sender if sender is not None and not self._is_behind(sender, self._batches + 1) else None

    def _close_batch(self) -> None:
        if self._commits:
            self._full.append(Batch(self._commits, self._thens, self._fresh, self._first_caller))
            self._commits, self._thens = [], []
        self._fresh, self._room = True, 0

    async def _alone(self, sender: Sender, commit: Commit) -> Answer:
        """One commit of a batch that the store could not take: only the bad one must suffer."""
        sender.number += 1
        return (await self._answers(sender, [commit], asyncio.get_running_loop().time()))[0]

    async def _answers(self, sender: Sender, commits: list[Commit], begun_at: float) -> Sequence[Answer]:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            try:
                return await self.store.commit(commits, batch=(sender.client, sender.number))
            except StoreUnavailable as e:
                unknown = e
            except Exception as e:  # noqa: BLE001  # refused, or a defect of the store: its callers must hear of it
                return [e] * len(commits)
            sender.holds = True
            wait = pause * (0.5 + self._rng.random() / 2)
            while True:
                if loop.time() + pause >= min(begun_at + self._give_up_s, self._ends_at):
                    return [unknown for _ in commits]
                await asyncio.sleep(wait)
                wait = FIRST_PAUSE_S
                if not self._is_behind(sender, sender.place):
                    break
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _has_more(self, sender: Sender) -> bool:
        """For that sender; else the other goes on with it."""
        return bool(self._full or self._commits) and not self._is_behind(sender, self._batches + 1)

    def _is_behind(self, sender: Sender, place: int) -> bool:
        """The other has an older batch that holds."""
        other = self._second if sender is self._first else self._first
        return other is not None and other.holds and other.place < place


def _told(sender: Sender, commit: Commit, answer: Answer) -> Answer:
    """A commit that no lease fences has none to lose: the store took its batch for an older one, and did nothing."""
    if answer != "lease_lost" or commit.fence is not None:
        return answer
    return StoreError(
        f"the store has newer batches of client {sender.client!r}, so this was not done: another process uses that name "
        "(was it copied while it ran?); restart this one"
    )
