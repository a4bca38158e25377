"""`culm dead`: letters are listed, shown, replayed and discarded, one by one or in bulk, and nothing else is touched."""

from __future__ import annotations

import msgspec
import pytest

from culm.job import Job
from culm.outcome import Failed, Fault, Lost
from tests.cli.desk import Desk


def ids(desk: Desk, *options: str) -> list[str]:
    return [found["id"] for found in desk.culm("dead", "list", "--json", *options).json["dead"]]


def filled(desk: Desk) -> None:
    desk.die(Job(id="a", task="t", args=msgspec.msgpack.encode([1, {"who": "ä"}])), Job(id="b", task="u"))
    desk.die(Job(id="c", task="t", queue="mail"), outcome=Lost("three strikes"))
    desk.die(Job(id="d", task="t"), outcome=Failed(Fault("shop.Timeout", "no answer")))


def test_letters_are_listed_by_task_queue_error_and_age(desk: Desk) -> None:
    filled(desk)
    desk.send(Job(id="alive", task="t"))
    assert ids(desk) == ["a", "b", "c", "d"]
    assert ids(desk, "--task", "t", "--queue", "default") == ["a", "d"]
    assert ids(desk, "--error", "timeout") == ["d"]
    assert ids(desk, "--error", "STRIKES") == ["c"]
    assert (ids(desk, "--older-than", "1h"), ids(desk, "--newer-than", "1h")) == ([], ["a", "b", "c", "d"])


def test_a_list_goes_by_pages(desk: Desk) -> None:
    filled(desk)
    first = desk.culm("dead", "list", "--limit", "3", "--json").json
    assert ([letter["id"] for letter in first["dead"]], first["after"]) == (["a", "b", "c"], "c")
    rest = desk.culm("dead", "list", "--limit", "3", "--after", "c", "--json").json
    assert ([letter["id"] for letter in rest["dead"]], rest["after"]) == (["d"], None)
    assert desk.culm("dead", "list", "-n", "3").out.splitlines()[-1] == "there are more: --after c"


def test_a_list_for_people_is_a_table(desk: Desk) -> None:
    assert desk.culm("dead", "list").out == "no dead letter matches\n"
    filled(desk)
    head, first, *_ = desk.culm("dead", "list").out.splitlines()
    assert head.split() == ["id", "task", "queue", "state", "attempts", "replays", "dead", "for", "error"]
    assert first.split()[:6] == ["a", "t", "default", "failed", "1", "0"]
    assert first.endswith("ValueError: no way")


def test_one_letter_is_shown_with_its_trace(desk: Desk) -> None:
    filled(desk)
    found = desk.culm("dead", "show", "a", "--json").json
    assert (found["error"], found["fault"]["trace"], found["claims"]) == ("ValueError: no way", "Traceback: no way", 1)
    assert desk.culm("dead", "show", "a").out.endswith("Traceback: no way\n")
    assert (found["arguments"], found["dead_for"] >= 0) == ([1, {"who": "ä"}], True)
    assert 'arguments  [1,{"who":"ä"}]\n' in desk.culm("dead", "show", "a").out
    assert "arguments" not in desk.culm("dead", "show", "a", "--no-arguments").out
    assert "arguments" not in desk.culm("dead", "show", "a", "--no-arguments", "--json").json
    assert "error      three strikes\n" in desk.culm("dead", "show", "c").out


@pytest.mark.parametrize(("job_id", "says"), [("alive", "it is open"), ("nobody", "it is not known")])
def test_what_is_no_dead_letter_is_not_shown(desk: Desk, job_id: str, says: str) -> None:
    desk.send(Job(id="alive", task="t"))
    done = desk.culm("dead", "show", job_id)
    assert (done.code, done.out, done.err) == (1, "", f"culm: job {job_id} is no dead letter: {says}\n")


def test_a_replayed_letter_is_the_same_job_with_its_history(desk: Desk) -> None:
    filled(desk)
    assert desk.culm("dead", "replay", "a", "c").out == "replayed 2\n"
    assert (desk.states("a", "c"), ids(desk)) == (["open", "open"], ["b", "d"])
    desk.end(Failed(Fault("E", "again")), *desk.claim())
    found = desk.culm("dead", "show", "a", "--json").json
    assert (found["attempts"], found["claims"], found["replays"], found["error"]) == (1, 2, 1, "E: again")


def test_letters_are_discarded_for_good(desk: Desk) -> None:
    filled(desk)
    assert desk.culm("dead", "discard", "a", "--json").json == {"discarded": 1}
    assert desk.states("a", "b") == ["absent", "failed"]


def test_bulk_acts_on_what_matches_and_on_nothing_else(desk: Desk) -> None:
    filled(desk)
    assert desk.culm("dead", "replay", "--task", "t", "--error", "no", "--json").json == {"replayed": 2}
    assert desk.states("a", "b", "c", "d") == ["open", "failed", "lost", "open"]
    assert desk.culm("dead", "discard", "--all").out == "discarded 2\n"
    assert (desk.states("a", "b", "c", "d"), ids(desk)) == (["open", "absent", "absent", "open"], [])


def test_a_dry_run_says_what_would_happen_and_changes_nothing(desk: Desk) -> None:
    filled(desk)
    for command in ("replay", "discard"):
        said = desk.culm("dead", command, "--task", "t", "--dry-run")
        assert said.out.splitlines()[-1] == f"would {command} 3; nothing was changed"
        assert desk.culm("dead", command, "a", "nobody", "--dry-run", "--json").json == {f"would_{command}": 1, "ids": ["a"]}
    assert ids(desk) == ["a", "b", "c", "d"]


def test_ids_that_are_no_letters_are_exit_1_and_the_others_are_done(desk: Desk) -> None:
    filled(desk)
    done = desk.culm("dead", "replay", "a", "nobody")
    assert (done.code, done.out) == (1, "replayed 1\n")
    assert done.err == "culm: 1 of 2 ids are no dead letters; see: culm dead list\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay"], "dead replay what?"),
        (["discard"], "or say --all"),
        (["discard", "a", "--all"], "one of these only"),
        (["replay", "a", "--task", "t"], "one of these only"),
        (["list", "--older-than", "soon"], "--older-than must be seconds"),
        (["list", "--limit", "0"], "--limit must be 1 or more"),
    ],
)
def test_what_is_unclear_is_refused_and_changes_nothing(desk: Desk, words: list[str], says: str) -> None:
    filled(desk)
    done = desk.culm("dead", *words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert ids(desk) == ["a", "b", "c", "d"]
