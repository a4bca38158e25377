"""What a worker wrote on its board can be read when it is gone, whatever was half-written."""

import os

from culm.commit import Held
from culm.worker.board import CLAIMS_BYTES, KEPT_CLAIMS, Board, BoardReader, Head, Seen


def made(concurrency: int = 3) -> tuple[Board, BoardReader]:
    reader = BoardReader(concurrency)
    board = Board(os.dup(reader.fd), concurrency)
    reader.handed()
    return board, reader


def test_an_empty_board_shows_nothing() -> None:
    _, reader = made()
    assert reader.head() == Head(0, 0, 0, 0)
    assert reader.seen() == Seen([], [], "")


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


def test_more_than_fits_is_left_out_and_no_slot_is_overwritten() -> None:
    board, reader = made(1)
    board.begin("w/1", "x" * 2_000)
    board.claimed("w/1", ["y" * 1_000 for _ in range(CLAIMS_BYTES // 1_000)], in_buffer=1)
    board.claimed("w/2", ["z"], in_buffer=1)
    seen = reader.seen()
    assert seen.running == []
    assert all(held.lease in ("w/1", "w/2") for held in seen.claimed)


def test_the_head_says_how_the_process_is() -> None:
    board, reader = made()
    board.claiming("w/17")
    assert reader.seen().claiming == "w/17"
    board.took_order()
    assert reader.head().orders == 1
    board.tick(7, 2)
    head = reader.head()
    assert (head.done, head.orders, head.left) == (7, 1, 2)
    assert head.ticked_ms > 0
