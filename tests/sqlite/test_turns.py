"""Turns of the interpreter are short while a large batch is written, and as they were at any other time."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from culm.commit import Commit
from culm.stores.sqlite.spot import SMALL
from culm.stores.sqlite.store import SqliteStore
from culm.stores.sqlite.turns import TURN_S, ShortTurns, short_turns
from tests.sqlite.test_batches import jobs

USUAL_S = 0.004


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def turn_s() -> float:
    return round(sys.getswitchinterval(), 6)


def test_they_are_short_until_the_last_has_ended() -> None:
    turns = ShortTurns()
    turns.begin()
    turns.begin()
    turns.end()
    assert turn_s() == TURN_S
    turns.end()
    assert turn_s() == USUAL_S


def test_what_somebody_set_meanwhile_stays() -> None:
    turns = ShortTurns()
    turns.begin()
    sys.setswitchinterval(0.002)
    turns.end()
    assert turn_s() == 0.002


def test_those_that_are_shorter_already_stay() -> None:
    for micros in range(1, 50):
        sys.setswitchinterval((micros + 0.5) / 1e6)
        set_to, turns = turn_s(), ShortTurns()
        for _ in range(3):
            turns.begin()
            assert turn_s() == set_to
            turns.end()
            assert turn_s() == set_to


def many(number: int) -> Commit:
    return jobs(*[f"{number}/{n}" for n in range(SMALL + 1)])


def test_a_large_batch_has_them_whatever_becomes_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        store, seen = SqliteStore(tmp_path / "jobs.db", durability="relaxed"), list[float]()

        def begun() -> bool:
            seen.append(turn_s())
            return False

        store._writes._begun = begun
        await store.commit([jobs("small")], batch=("c", 1))
        await store.commit([many(1)], batch=("c", 2))
        await store.commit([many(1), Commit(cancel=("small",))], batch=("c", 3))  # none of it can be done at once
        assert seen[0] == USUAL_S
        assert set(seen[1:]) == {TURN_S}
        assert turn_s() == USUAL_S
        both = [store.commit([many(n)], batch=(f"c{n}", 1)) for n in (2, 3)]
        await asyncio.gather(*both)
        assert turn_s() == USUAL_S
        await store.close()

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_the_child_of_a_fork_has_the_usual_ones() -> None:
    short_turns.begin()
    child = os.fork()
    if not child:
        os._exit(0 if turn_s() == USUAL_S else 1)
    short_turns.end()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert turn_s() == USUAL_S
