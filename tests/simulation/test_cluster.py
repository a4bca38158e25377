"""Thousands of seeded runs of a whole cluster under faults keep every promise. CULM_TESTS=full: 20,000 of them."""

from __future__ import annotations

import os
import time
from collections import Counter
from itertools import count

import pytest

from culm.testing.cluster import PER_RUN, main, simulate, vacuous

RUNS = 20_000 if os.environ.get("CULM_TESTS") == "full" else 2_000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, RUNS, CHUNK))
def test_a_cluster_under_faults_keeps_its_promises(first: int) -> None:
    tally: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        tally += simulate(seed).tally
    assert vacuous(tally, CHUNK) == []


def test_runs_in_which_nothing_happens_are_refused_as_vacuous() -> None:
    assert len(vacuous(Counter({"joined": 1_000}), 100)) == len(PER_RUN) - 1


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_tells_the_same_history_again(seed: int) -> None:
    assert simulate(seed).notes == simulate(seed).notes


def test_a_history_does_not_hang_on_how_fast_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [simulate(seed).notes for seed in range(20)]
    real, late = time.monotonic, count(step=0.02)
    monkeypatch.setattr(time, "monotonic", lambda: real() + next(late))
    assert [simulate(seed).notes for seed in range(20)] == histories


def test_other_seeds_tell_other_histories() -> None:
    assert len({len(simulate(seed).notes) for seed in range(20)}) > 5


def test_the_history_of_a_seed_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing was violated"
    assert [str(note) for note in simulate(7).notes] == lines[:-1]


@pytest.mark.parametrize("argv", [[], ["x"], ["1", "0"], ["1", "x"], ["1", "2", "3"]])
def test_a_seed_is_a_whole_number_and_partitions_are_one_or_more(argv: list[str]) -> None:
    assert main(argv) == 64
