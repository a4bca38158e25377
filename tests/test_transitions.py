"""The table of a job's life is complete, unambiguous, and shown in the documentation as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

from culm.testing.table import BEGIN, END, render_table, rendered_block
from culm.transitions import TABLE, At, Input

ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"

FENCED: set[Input] = {
    "extend", "extend other lease", "succeed", "fail", "lose", "expire", "cancelled", "retry", "snooze", "suspend", "suspend for",
    "give back", "checkpoint", "succeed other lease",
}  # fmt: skip
TO_A_STRANGER: set[Input] = FENCED | {"send", "send later", "send waiting", "release", "cancel"}
TO_A_KNOWN_JOB: set[Input] = FENCED | {"send", "send other task", "release", "claim", "cancel"}


def test_each_state_answers_each_input_that_makes_sense_there_once() -> None:
    sensible = {(i, at) for at in get_args(At) for i in (TO_A_STRANGER if at == "absent" else TO_A_KNOWN_JOB)}
    rows = Counter((t.given, t.at) for t in TABLE)
    assert set(rows) == sensible
    assert {pair: n for pair, n in rows.items() if n != 1} == {}


def test_every_input_and_every_state_is_in_the_table() -> None:
    assert {t.given for t in TABLE} == set(get_args(Input))
    assert {t.at for t in TABLE} == set(get_args(At))


def test_what_is_refused_leaves_the_job_where_it_was() -> None:  # I6
    refused = [t for t in TABLE if t.answer in ("lease_lost", "lost", "conflict")]
    assert len(refused) > 60
    assert all(t.to == t.at and t.due in ("same", "none") for t in refused)


def test_a_finished_job_stays_finished() -> None:  # I3, I7
    assert {t.to for t in TABLE if t.at == "finished"} == {"finished"}


def test_a_rendered_row_shows_every_state_and_every_note() -> None:
    lines = render_table().splitlines()
    assert len(lines) == 2 + len(get_args(Input))
    assert {line.count("|") for line in lines} == {len(get_args(At)) + 2}
    assert all(t.note in render_table() for t in TABLE)


def test_the_documentation_shows_the_table_as_it_is() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    shown = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert shown == rendered_block(), "paste culm.testing.table.rendered_block() between the markers"
