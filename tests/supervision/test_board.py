"""What a worker wrote on its board can be read when it is gone, whatever was half-written."""

import os

from culm.commit import Held
from culm.worker.board import KEPT_CLAIMS, Board, BoardReader, Head, Seen


def made(concurrency: int = 3) -> tuple[Board, BoardReader]:
    reader = BoardReader(concurrency)
    board = Board(os.dup(reader.fd), concurrency)
    reader.handed()
    return board, reader


def test_an_empty_board_shows_nothing() -> None:
    _, reader = made()
    assert reader.head() == Head(0, 0, 0, 0, 0, 0, 0)
    assert reader.seen() == Seen([], [], "", first=True)


def test_what_runs_is_shown_until_it_ends() -> None:
    board, reader = made()
    board.claimed("w/1", ["a", "b", "c"], in_buffer=1)
    first, second = board.begin("w/1", "a"), board.begin("w/1", "b")
    assert set(reader.seen().running) == {Held("a", "w/1"), Held("b", "w/1")}
    assert reader.seen().claimed == [Held("c", "w/1")]
    board.end(first)
    assert reader.seen().running == [Held("b", "w/1")]
    board.end(second)
    third = [board.begin("w/1", name) for name in ("c", "d", "e")]
    assert sorted(third) == [0, 1, 2]


def test_the_claims_of_late_are_shown_and_older_ones_forgotten() -> None:
    board, reader = made()
    for n in range(KEPT_CLAIMS + 5):
        board.claimed(f"w/{n}", [f"job-{n}"], in_buffer=2)
    assert [held.lease for held in reader.seen().claimed] == [f"w/{n}" for n in range(3, KEPT_CLAIMS + 5)]


def test_what_runs_for_long_is_shown_when_its_claim_is_forgotten() -> None:
    board, reader = made()
    board.claimed("w/0", ["long", "gone"], in_buffer=0)
    long, gone = board.begin("w/0", "long"), board.begin("w/0", "gone")
    board.name(long, "w/0", "long")
    board.end(gone)
    for n in range(1, 2 * KEPT_CLAIMS):
        board.claimed(f"w/{n}", [f"job-{n}"], in_buffer=0)
    assert reader.seen().running == [Held("long", "w/0")]
    late = board.begin("w/0", "late")  # it waited in the buffer for long
    assert set(reader.seen().running) == {Held("long", "w/0"), Held("late", "w/0")}
    board.end(late)
    board.end(long)
    board.begin("w/50", "job-50")
    assert reader.seen().running == [Held("job-50", "w/50")]


def test_the_log_begins_anew_when_it_is_full_and_forgets_nothing_of_late() -> None:
    board, reader = made()
    ids = ["x" * 400 + str(n) for n in range(500)]
    for n in range(60):  # three times what fits
        board.claimed(f"w/{n}", ids, in_buffer=0)
        board.end(board.begin(f"w/{n}", ids[0]))
    last = {held.lease for held in reader.seen().claimed}
    assert {"w/57", "w/58", "w/59"} <= last
    slot = board.begin("w/59", ids[7])
    assert reader.seen().running == [Held(ids[7], "w/59")]
    board.end(slot)


def test_a_name_that_is_too_long_is_left_out() -> None:
    board, reader = made(1)
    board.name(board.begin("w/1", "x" * 2_000), "w/1", "x" * 2_000)
    assert reader.seen().running == []


def test_the_head_says_how_the_process_is() -> None:
    board, reader = made()
    board.claiming("w/17")
    assert reader.seen().claiming == "w/17"
    board.took_order()
    assert reader.head().orders == 1
    board.tick(7, 2, leaked=3, good_ms=9)
    head = reader.head()
    assert (head.done, head.orders, head.left, head.leaked, head.good_ms, head.begun) == (7, 1, 2, 3, 9, 0)
    assert head.ticked_ms > 0


def test_it_is_known_whether_something_ran_before() -> None:
    board, reader = made(1)
    board.claimed("w/1", ["a", "b"], in_buffer=1)
    slot = board.begin("w/1", "a")
    assert reader.seen().first
    board.end(slot)
    board.tick(1, 1)
    board.begin("w/1", "b")
    assert reader.seen().running == [Held("b", "w/1")]
    assert not reader.seen().first
    assert reader.head().begun == 2
