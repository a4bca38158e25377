"""The gatherer: how posted commits become batches, and what it says of answers that cannot be."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from culm import App, PartlySent, StoreError, StoreUnavailable
from culm.batch import ALONE, HALVED, MAX_WEIGHT, MOST_WHOLE, Gatherer
from culm.commit import BatchId, Commit, Committed, Event, Held, weigh
from culm.groups import Caller, Groups, caller
from culm.job import Job
from culm.sender import Answer, Sender
from culm.store import AtOnce
from culm.stores.memory import MemoryStore
from tests.tasks.harness import Bench, run, until


async def first(n: int = 0) -> None: ...


class Unordered(MemoryStore):
    """As a store that asks over several connections."""

    def __getattribute__(self, name: str) -> object:
        if name == "in_order":
            raise AttributeError(name)
        return super().__getattribute__(name)


class Noting(MemoryStore):
    """Notes each batch and applies nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Commit]] = []

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.batches.append(list(commits))
        return ["applied"] * len(commits)


def sending(job_id: str) -> Commit:
    return Commit(send=(Job(id=job_id, task="t"),))


def test_a_hundred_thousand_commits_that_gathered_are_cut_in_no_time() -> None:
    async def took_s(n: int) -> float:
        store = Noting()
        gatherer, commit, answers = Gatherer(store, client="c"), sending("a"), list[Answer]()
        for _ in range(n):
            gatherer.post(commit, answers.append, weight=2)
        began = time.process_time()
        await gatherer.flush()
        took = time.process_time() - began
        assert answers == ["applied"] * n
        assert {len(b) for b in store.batches} == {MAX_WEIGHT // 2}
        return took

    few, many = (min(run(took_s(n)) for _ in range(3)) for n in (10_000, 100_000))
    assert many < 40 * few, "it grew with the square when each cut weighed and copied the rest"


def test_batches_are_cut_by_the_weight_that_was_given_and_keep_the_order() -> None:
    async def main() -> None:
        store, told = Noting(), list[int]()
        gatherer = Gatherer(store, client="c")
        for n, weight in enumerate([1, MAX_WEIGHT - 1, 1, 3 * MAX_WEIGHT, 5, 5, MAX_WEIGHT]):
            gatherer.post(sending(str(n)), lambda _, n=n: told.append(n), weight=weight)
        await gatherer.flush()
        assert [[c.send[0].id for c in b] for b in store.batches] == [["0", "1"], ["2"], ["3"], ["4", "5"], ["6"]]
        assert told == list(range(7))

    run(main())


class Watched(Gatherer):
    """Asks, whenever something of it or of a sender changes, whether all that is not answered is still there."""

    def __init__(self, *args: Any, **given: Any) -> None:
        self.posted: list[Commit] = []
        self.looks = 0
        super().__init__(*args, **given)
        for name in ("_first", "_second"):
            if self.__dict__[name] is not None:
                self.__dict__[name] = WatchedSender(self, self.__dict__[name].client)

    def look(self, name: str) -> None:
        if "_second" in self.__dict__:
            self.looks += 1
            assert not [c for c in self.posted if c not in self.unanswered()], f"{name} was set too early"

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name not in ("posted", "looks"):
            self.look(name)


class WatchedSender(Sender):
    def __init__(self, of: Watched, client: str) -> None:
        self.of = of
        super().__init__(client)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if hasattr(self, "task"):
            self.of.look(name)


@pytest.mark.parametrize("weight", [MAX_WEIGHT // 3, 1])
@pytest.mark.parametrize("two", [False, True])
def test_a_commit_is_never_missed_on_its_way_to_the_store(weight: int, two: bool) -> None:
    """I2: the heart asks from another thread, at any moment; what it does not hear of is not extended."""

    async def main() -> None:
        store = Noting()
        gatherer = Watched(store, client="c", for_callers=two)

        def answered(commits: Sequence[Commit], _: Sequence[Answer]) -> None:
            gatherer.posted = [commit for commit in gatherer.posted if commit not in commits]

        gatherer.answered = answered
        for n in range(2 * HALVED + 7):
            gatherer.post(commit := Commit(fence=Held(str(n), "w/1")), weight=weight, fresh=True)
            gatherer.posted.append(commit)
        await gatherer.flush()
        assert not gatherer.posted
        assert gatherer.unanswered() == []
        assert gatherer.looks > 20
        assert [c.fence.job_id for b in store.batches for c in b if c.fence is not None] == [str(n) for n in range(2 * HALVED + 7)]
        assert weight > 1 or len(store.batches) == (2 if two else 1)

    run(main())


class SlowNoting(Noting):
    """Takes some turns of the loop for each batch, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.works = asyncio.Lock()

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        async with self.works:
            for _ in range(5):
                await asyncio.sleep(0)
            return await super().commit(commits, batch=batch)


async def _sends(gatherer: Gatherer, times: int, turn: asyncio.Semaphore | None = None) -> None:
    for n in range(times):
        if turn is not None:
            await turn.acquire()
        assert await gatherer.submit(sending(str(n)), fresh=True) == "applied"


def test_callers_in_step_become_two_groups_that_stay() -> None:
    async def main() -> None:
        store = SlowNoting()
        gatherer = Gatherer(store, client="c", for_callers=True)
        await asyncio.gather(*(_sends(gatherer, 10) for _ in range(HALVED)))
        assert {len(batch) for batch in store.batches} == {HALVED // 2}

    run(main())


def test_callers_who_send_with_a_new_task_each_time_do_not_go_in_step_either() -> None:
    async def caller(gatherer: Gatherer) -> None:
        for _ in range(10):
            await asyncio.create_task(_sends(gatherer, 1))

    async def main() -> None:
        store = SlowNoting()
        gatherer = Gatherer(store, client="c", for_callers=True)
        await asyncio.gather(*(caller(gatherer) for _ in range(MOST_WHOLE - 2)))
        assert {len(batch) for batch in store.batches} == {MOST_WHOLE // 2 - 1}

    run(main())


def test_what_no_task_posts_is_sent_when_one_sends_again() -> None:
    async def main(gatherer: Gatherer) -> None:
        await asyncio.gather(*(_sends(gatherer, 1) for _ in range(HALVED)))

    store, answers = SlowNoting(), list[Answer]()
    gatherer = Gatherer(store, client="c", for_callers=True)
    loop = asyncio.new_event_loop()
    try:
        sends = loop.create_task(main(gatherer))
        assert gatherer._second is not None
        while not (gatherer._first.under_way and gatherer._second.under_way):
            loop.run_until_complete(asyncio.sleep(0))
        gatherer.post(sending("from outside"), answers.append)
        loop.run_until_complete(sends)
        loop.run_until_complete(gatherer.flush())
    finally:
        loop.close()
    assert answers == ["applied"]


def test_a_caller_that_is_no_task_of_asyncios_own_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign:
        """As the task of another framework's bridge."""

        __slots__ = ()

    async def main() -> None:
        assert caller() == caller() is not None
        monkeypatch.setattr(asyncio, "current_task", lambda _loop: Foreign())
        assert caller() is None

    run(main())
    assert caller() is None


def test_groups_that_take_turns_are_not_halved_again_unless_they_are_large() -> None:
    """As those who await results do: each group sends when the other has sent, and its answer has come."""

    async def main(size: int, *, together: bool) -> list[int]:
        store = SlowNoting()
        gatherer = Gatherer(store, client="c", for_callers=True)
        turns = [asyncio.Semaphore(0), asyncio.Semaphore(0)]
        groups = [asyncio.gather(*(_sends(gatherer, 10, turn) for _ in range(size))) for turn in turns]
        for n in range(20):
            for _ in range(size):
                turns[n % 2].release()
            if n or not together:
                await asyncio.sleep(0.001)
                await gatherer.flush()
        await asyncio.gather(*groups)
        return [len(batch) for batch in store.batches]

    small, large = MOST_WHOLE - 1, MOST_WHOLE
    assert run(main(small, together=False)) == [small // 2, small - small // 2, *[small] * 19], "the first knows of no partner"
    assert run(main(HALVED, together=True)) == [HALVED] * 20, "the halves of one batch are partners, too"
    assert set(run(main(large, together=False))) == {large // 2}


class LosesTheFirst(MemoryStore):
    """Is away for a client's first batches, or loses what it answers to them; the other is answered as ever."""

    def __init__(self, *, applies: bool) -> None:
        super().__init__()
        self.applies, self.lost = applies, 0

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        await asyncio.sleep(0)
        if batch == ("c", 1) and self.lost < 3:
            self.lost += 1
            if self.applies:
                await super().commit(commits, batch=batch)
            raise StoreUnavailable("lost")
        return await super().commit(commits, batch=batch)


@pytest.mark.parametrize("applies", [False, True])
def test_of_two_batches_one_may_be_lost_while_the_other_is_answered(applies: bool) -> None:
    """Each has numbers of its own, or the one that is resent would look old; and what is newer waits for it, to keep the order."""

    async def main() -> None:
        store, answers = LosesTheFirst(applies=applies), list[Answer]()
        gatherer = Gatherer(store, client="c", rng=random.Random(1), for_callers=True)
        for n in range(HALVED):
            gatherer.post(sending(f"{n:02d}"), answers.append, fresh=True)
        while not answers:
            await asyncio.sleep(0)
        assert len(answers) == HALVED // 2, "the other half is answered"
        later = [gatherer.submit(sending(f"later {n}"), fresh=True) for n in range(10)]
        assert [await answer for answer in later] == ["applied"] * 10
        assert answers == ["applied"] * HALVED
        assert store.lost == 3
        names = [row.job.id for _, _, row in store.tables.ready["default", 5]]
        assert names[-10:] == [f"later {n}" for n in range(10)]
        assert len(names) == HALVED + 10

    run(main())


class Away(MemoryStore):
    """Is away for a while; whoever asks twice at a time has an order to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.calls = list[BatchId](), 0

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        self.calls += 1
        self.asked.append(batch)
        await asyncio.sleep(0)
        if self.calls <= 5:
            raise StoreUnavailable("away")
        return await super().commit(commits, batch=batch)


@pytest.mark.parametrize("seed", range(8))
def test_two_batches_that_were_lost_are_sent_again_in_their_order(seed: int) -> None:
    async def main() -> None:
        store = Away()
        gatherer = Gatherer(store, client="c", rng=random.Random(seed), for_callers=True)
        answers = [gatherer.submit(sending(f"{n:02d}"), fresh=True) for n in range(HALVED + 5)]
        assert [await answer for answer in answers] == ["applied"] * len(answers)
        names = [row.job.id for _, _, row in store.tables.ready["default", 5]]
        assert names == sorted(names)
        assert store.asked[:2] == [("c", 1), ("c+", 1)]
        assert ("c+", 1) not in store.asked[2:-1], "it waits until the older is answered"

    run(main())


class Moody(Unordered):
    """Answers at once, or not; and if not, it may have been done, or be away."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.moods: Counter[str] = Counter()

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        mood = self.rng.choice(["at once", "at once", "not", "done, but not said"])
        self.moods[mood] += 1
        answers = None if mood == "not" else self.tables.commit(commits, batch=batch)
        if mood != "at once":
            return False
        then(answers)
        return True

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        if self.rng.random() < 0.02:
            self.moods["away"] += 1
            raise StoreUnavailable("away")
        return await super().commit(commits, batch=batch)


@pytest.mark.parametrize("seed", range(12))
def test_a_store_that_answers_at_once_now_and_then_gets_everything_once_and_in_order(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        store = Moody(rng)
        gatherer, posted = Gatherer(store, client="c", rng=rng, for_callers=True), 0
        answers: list[Answer] = []
        while posted < 2_000:
            for _ in range(rng.choice([1, 1, 1, 2, 40])):
                gatherer.post(sending(f"{posted:05d}"), answers.append, weight=rng.choice([1, 1, MAX_WEIGHT]), fresh=rng.random() < 0.9)
                posted += 1
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            if rng.random() < 0.1:
                await gatherer.flush()
                assert len(answers) == posted
                assert gatherer.unanswered() == []
        await gatherer.flush()
        assert answers == ["applied"] * posted
        assert [row.job.id for _, _, row in store.tables.ready["default", 5]] == [f"{n:05d}" for n in range(posted)]
        assert set(store.moods) >= {"at once", "not", "done, but not said"}

    run(main())


class Later(MemoryStore):
    """Takes what it is asked at once, in order, and answers later, or says that it does not know; or it is not asked at once."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.moods: Counter[str] = Counter()

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        mood = self.rng.choice(["answers"] * 6 + ["lost", "not done, and lost", "not", "raises", "raises when it is done"])
        self.moods[mood] += 1
        answers = None if mood in ("not", "raises", "not done, and lost") else self.tables.commit(commits, batch=batch)
        if mood.startswith("raises"):
            raise RuntimeError(mood)
        if mood != "not":
            self._answer(then, answers if mood == "answers" else None, self.rng.randrange(4))
        return mood != "not"

    def _answer(self, then: AtOnce, answers: list[Committed] | None, turns: int) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(*([self._answer, then, answers, turns - 1] if turns else [then, answers]))

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        answers = None if self.rng.random() < 0.05 else await super().commit(commits, batch=batch)
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        if answers is None or self.rng.random() < 0.05:
            self.moods["away"] += 1
            raise StoreUnavailable("away")
        return answers


@pytest.mark.parametrize("for_callers", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_answers_later_without_a_task_gets_everything_once(seed: int, for_callers: bool) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        store = Later(rng)
        gatherer = Gatherer(store, client="c", rng=rng, for_callers=for_callers)
        gatherer.answered = lambda commits, _: answered.update(c.send[0].id for c in commits)
        answers: list[Answer] = []
        sent: list[str] = []
        answered: Counter[str] = Counter()
        told = 0
        while len(sent) < 600:
            for _ in range(rng.choice([1, 1, 1, 2, 40])):
                sent.append(f"{len(sent):05d}")
                told += 1
                gatherer.post(sending(sent[-1]), answers.append, weight=rng.choice([1, 1, MAX_WEIGHT]), fresh=rng.random() < 0.9)
            if rng.random() < 0.2:
                more = [f"{len(sent) + n:05d}" for n in range(rng.choice([1, 3]))]
                sent += more
                gatherer.post_all([sending(name) for name in more], len(more))
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            unanswered = [c.send[0].id for c in gatherer.unanswered()]
            assert set(unanswered) == set(sent) - set(answered)
            if rng.random() < 0.1:
                await gatherer.flush()
                assert len(answers) == told
                assert gatherer.unanswered() == []
        await gatherer.flush()
        assert answers == ["applied"] * told
        assert answered == dict.fromkeys(sent, 1)
        assert sorted(row.job.id for _, _, row in store.tables.ready["default", 5]) == sent
        assert {"answers", "away"} <= set(store.moods)

    run(main())


class Slow(MemoryStore):
    """Takes what it is asked at once, and answers some turns of the loop later; some of it has to be asked the other way."""

    def __init__(self, turns: int = 6) -> None:
        super().__init__()
        self.turns = turns
        self.sizes: list[int] = []
        self.thens: list[AtOnce] = []

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        if any(job.priority == 9 for c in commits for job in c.send):
            return False
        self.sizes.append(len(commits))
        self._later(self.turns, then, self.tables.commit(commits, batch=batch))
        return True

    def _later(self, turns: int, then: AtOnce, answers: list[Committed]) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self._later, turns - 1, then, answers)
        else:
            loop.call_soon(then, answers)


@pytest.mark.parametrize(("callers", "at_least"), [(1, 1), (2, 1), (3, 1.4), (8, 3.5), (100, 45)])
def test_callers_who_keep_sending_are_gathered_although_one_was_alone_before(callers: int, at_least: float) -> None:
    """Few must not go beside many for ever, each time in a batch of their own."""

    async def main() -> None:
        store, names = Slow(), iter(range(1_000_000))
        gatherer = Gatherer(store, client="c", for_callers=True)

        async def caller(times: int) -> None:
            for _ in range(times):
                assert await gatherer.submit(sending(f"{next(names):06d}"), fresh=True) == "applied"

        await caller(20)
        lasting = [asyncio.create_task(caller(60)) for _ in range(callers // 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        lasting += [asyncio.create_task(caller(60)) for _ in range(callers - callers // 2)]
        await asyncio.gather(*lasting)
        late = store.sizes[20:][len(store.sizes[20:]) // 3 : -8]
        assert sum(late) / len(late) >= at_least, late

    run(main())


def test_what_cannot_be_asked_at_once_is_not_overtaken_by_what_can() -> None:
    async def main() -> None:
        store = Slow()
        gatherer = Gatherer(store, client="c", for_callers=True)
        for _ in range(20):
            await gatherer.submit(sending("warm"), fresh=True)
        for n in range(20):
            commit = Commit(send=(Job(id=f"{2 * n:03d}", task="t", priority=9),))
            gatherer.post(commit, fresh=True)
            gatherer.post(sending(f"{2 * n + 1:03d}"), fresh=True)
            if n % 3 == 0:
                await gatherer.flush()
        await gatherer.flush()
        sent = [name for name in store.tables.rows if name != "warm"]
        assert sent == sorted(sent)

    run(main())


class SlowToDo(Slow):
    """What has to be asked the other way takes a while to be done."""

    async def commit(self, commits: Sequence[Commit], *, batch: BatchId) -> list[Committed]:
        for _ in range(30):
            await asyncio.sleep(0)
        return await super().commit(commits, batch=batch)


def test_a_commit_that_is_alone_does_not_overtake_one_that_takes_its_time() -> None:
    async def main() -> None:
        store = SlowToDo()
        gatherer = Gatherer(store, client="c", for_callers=True)
        for _ in range(20):
            await gatherer.submit(sending("0"), fresh=True)
        answers = [gatherer.submit(sending("1"), fresh=True)]
        answers.append(gatherer.submit(Commit(send=(Job(id="2", task="t", priority=9),)), fresh=True))
        await answers[0]
        gatherer._singles = ALONE  # as if all but one had been alone
        answers.append(gatherer.submit(sending("3"), fresh=True))
        await asyncio.gather(*answers)
        assert list(store.tables.rows) == ["0", "1", "2", "3"]

    run(main())


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_a_commit_that_is_alone_is_sent_although_a_signal_interrupts(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler raises before the commit is under way."""

    def interrupted(groups: Groups, first: Caller) -> None:
        monkeypatch.setattr(Groups, "sends", right)
        raise error

    async def main() -> None:
        store, answers = Slow(), list[Answer]()
        gatherer = Gatherer(store, client="c", for_callers=True)
        for _ in range(20):
            await gatherer.submit(sending("warm"), fresh=True)
        monkeypatch.setattr(Groups, "sends", interrupted)
        with suppress(KeyboardInterrupt):
            gatherer.post(sending("interrupted"), answers.append, fresh=True)
        await asyncio.wait_for(gatherer.flush(), 5)
        assert answers == ["applied"]
        assert list(store.tables.rows) == ["warm", "interrupted"]

    right = Groups.sends
    run(main())


def test_who_was_not_answered_when_all_tasks_are_cancelled_hears_that_it_is_unknown() -> None:
    class Lost(Slow):
        def _later(self, turns: int, then: AtOnce, answers: list[Committed]) -> None:
            self.thens.append(then)

    async def main() -> None:
        store, answers = Lost(), list[Answer]()
        gatherer = Gatherer(store, client="c", for_callers=True)
        gatherer.post(sending("a"), answers.append, fresh=True)
        await until(lambda: bool(store.thens))
        store.thens[0](None)
        me = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not me:
                task.cancel()
        await gatherer.flush()
        assert [type(answer) for answer in answers] == [StoreUnavailable]
        assert gatherer.unanswered() == []

    run(main())


class Refuses(Slow):
    """Raises when it is asked for a commit that is alone: a defect."""

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        if alone:
            raise RuntimeError("out of order")
        return super().commit_at_once(commits, batch=batch, alone=alone, fresh=fresh, then=then)


def test_a_store_that_raises_when_it_is_asked_at_once_is_asked_by_a_task() -> None:
    async def main() -> None:
        gatherer = Gatherer(Refuses(), client="c", for_callers=True)
        answers = [await gatherer.submit(sending(f"{n:02d}"), fresh=True) for n in range(5 * ALONE)]
        assert answers == ["applied"] * len(answers)
        assert gatherer.unanswered() == []

    run(main())


class Interrupted(Unordered):
    """A signal comes while it answers at once, before or after it did what was asked."""

    def __init__(self, *, done: bool) -> None:
        super().__init__()
        self.done, self.interrupts = done, 0

    def commit_at_once(self, commits: Sequence[Commit], *, batch: BatchId, alone: bool, fresh: bool, then: AtOnce) -> bool:
        self.interrupts += 1
        if self.done:
            self.tables.commit(commits, batch=batch)
        raise KeyboardInterrupt


@pytest.mark.parametrize("done", [False, True])
def test_what_a_signal_interrupts_goes_on_if_the_loop_does(done: bool) -> None:
    store, answers = Interrupted(done=done), list[Answer]()
    loop = asyncio.new_event_loop()

    async def post() -> None:
        gatherer.post(sending("a"), answers.append)
        await asyncio.sleep(1)

    try:
        gatherer = Gatherer(store, client="c", for_callers=True)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(post())
        loop.run_until_complete(gatherer.flush())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert (answers, store.interrupts, len(store.tables.rows)) == (["applied"], 1, 1)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_after_its_tasks_were_cancelled_it_still_sends_and_its_flush_ends(turns: int) -> None:
    """As whoever shuts down does: cancel all tasks, then close."""

    async def main() -> None:
        store, answers = Away(), list[Answer]()
        store.calls = 5  # it is not away
        gatherer = Gatherer(store, client="c", for_callers=True)
        for n in range(2 * HALVED):
            gatherer.post(sending(f"{n:02d}"), answers.append, fresh=True)
        for _ in range(turns):
            await asyncio.sleep(0)
        me = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not me:
                task.cancel()
        await asyncio.sleep(0)
        await asyncio.wait_for(gatherer.flush(), 5)
        assert await asyncio.wait_for(gatherer.submit(sending("later"), fresh=True), 5) == "applied"
        await asyncio.wait_for(gatherer.flush(), 5)

    run(main())


def test_a_batch_that_may_take_a_second_look_is_not_followed() -> None:
    """Its ids may be known: on Redis it would be overtaken, then."""

    async def main() -> None:
        store = Away()
        store.calls = 5
        gatherer = Gatherer(store, client="c", for_callers=True)
        answers = [gatherer.submit(sending(f"{n:02d}"), fresh=n != 3) for n in range(HALVED)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers += [gatherer.submit(sending(f"later {n}"), fresh=True) for n in range(3)]
        assert [await answer for answer in answers] == ["applied"] * len(answers)
        assert store.asked == [("c", 1), ("c", 2)]

    run(main())


def test_large_payloads_weigh_more() -> None:
    assert weigh(sending("a")) == 2
    assert weigh(Commit(send=(Job(id="a", task="t", args=bytes(1 << 20)),))) == 2 + 256
    assert weigh(Commit(emit=(Event("s", "t", "k", bytes(8192)),))) == 2 + 2


def test_a_send_whose_batch_the_store_takes_for_an_old_one_is_not_accepted() -> None:
    """A process that was copied while it ran has a twin of the same name."""

    async def main() -> None:
        bench = Bench()
        task = bench.app.task(name="known")(first)
        job = await task.enqueue()
        await task.enqueue()
        gatherer = bench.app.gatherer()
        assert isinstance(gatherer, Gatherer)
        gatherer._first.number = 0
        with pytest.raises(StoreError, match="another process uses that name"):
            await task.enqueue()
        gatherer = bench.app.gatherer()
        assert isinstance(gatherer, Gatherer)
        gatherer._first.number = 0
        with pytest.raises(StoreError, match="another process uses that name"):
            await job.cancel()
        gatherer._first.number = 0
        with pytest.raises(PartlySent, match="another process uses that name"):
            await task.map(range(3))
        assert len(bench.jobs()) == 2

    run(main())


def test_two_apps_of_one_seed_and_instant_do_not_share_a_name() -> None:
    async def main() -> None:
        bench = Bench()
        apps = [App(store=bench.store, clock=bench.clock, rng=random.Random(1)) for _ in range(2)]
        for app in apps:
            await app.task(name="known")(first).enqueue()
        assert len(bench.jobs()) == 2

    asyncio.run(main())
