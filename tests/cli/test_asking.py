"""What a caller can do from a terminal, against a worker that runs in another process."""

import re
import sqlite3

import pytest

from culm.cli.main import main
from tests.cli.shell import Shell

pytestmark = pytest.mark.slow  # real processes

COMMANDS = [
    "worker", "enqueue", "result", "status", "cancel", "queues", "workers", "jobs", "top", "why", "pause", "resume", "drain", "purge",
    "dead list", "dead show", "dead replay", "dead discard", "doctor", "migrate", "demo", "version",
]  # fmt: skip


def test_enqueue_prints_the_id_and_result_prints_the_result(served: Shell) -> None:
    job_id = served.run("enqueue", "shop:app", "shop.add", "-5", "b=2").out.strip()
    assert job_id
    done = served.run("result", job_id, "--timeout", "10")
    assert (done.code, done.out, done.err) == (0, "-3\n", "")


def test_enqueue_waits_for_the_result(served: Shell) -> None:
    done = served.run("enqueue", "shop:app", "shop.add", "1", "2", "--wait", "10", "--json")
    assert done.code == 0
    assert done.json["outcome"] == "succeeded"
    assert done.json["result"] == 3


def test_options_travel_with_the_job(served: Shell) -> None:
    options = ("--queue", "night", "--priority", "9", "--delay", "60", "--keep", "5", "--retry", "2", "--expires", "90", "--id", "o-1")
    assert served.run("enqueue", "shop:app", "shop.add", "1", *options).out == "o-1\n"
    view = served.run("status", "o-1", "--json").json
    assert (view["queue"], view["priority"], view["state"]) == ("night", 9, "open")
    assert 0 < view["due_in_ms"] <= 60_000


def test_an_instant_delays_a_job(served: Shell) -> None:
    served.run("enqueue", "shop:app", "shop.add", "1", "--at", "2100-01-01T00:00:00+00:00", "--id", "later")
    assert served.run("status", "later", "--json").json["due_in_ms"] > 10**9


def test_the_same_id_is_the_same_job(served: Shell) -> None:
    assert [served.run("enqueue", "shop:app", "shop.add", "1", "--id", "twice").code for _ in range(2)] == [0, 0]
    conflict = served.run("enqueue", "shop:app", "shop.boom", "--id", "twice")
    assert conflict.code == 1
    assert "belongs to a job of another task" in conflict.err


def test_a_failure_is_one_line_and_exit_1(served: Shell) -> None:
    done = served.run("enqueue", "shop:app", "shop.boom", "--wait", "10", "--id", "fails")
    assert (done.code, done.out) == (1, "fails\n")
    assert done.err == "culm: job fails: failed with ValueError: no way, no how\n"
    as_json = served.run("result", "fails", "--json")
    assert as_json.code == 1
    assert as_json.json["error"]["type"] == "ValueError"
    assert "boom" in as_json.json["error"]["trace"]
    assert "no way" in served.run("status", "fails").out


def test_a_result_that_does_not_come_in_time_is_exit_1(served: Shell) -> None:
    done = served.run("enqueue", "shop:app", "shop.nap", "60", "--wait", "0.1", "--id", "slow", "--json")
    assert done.code == 1
    assert done.json == {"id": "slow", "outcome": None}
    assert "did not end within 0.1 s" in done.err


def test_a_running_job_is_asked_to_stop(served: Shell) -> None:
    served.run("enqueue", "shop:app", "shop.nap", "60", "--id", "runs", "--wait", "0.3")
    assert served.run("cancel", "runs", "--json").json["before"] == "leased"
    done = served.run("result", "runs", "--timeout", "10")
    assert done.code == 1
    assert "was cancelled" in done.err


def test_a_queued_job_is_cancelled_at_once(served: Shell) -> None:
    served.run("enqueue", "shop:app", "shop.add", "1", "--queue", "night", "--id", "queued")
    assert served.run("cancel", "shop:app", "queued").out == "cancelled\n"
    again = served.run("cancel", "queued")
    assert again.code == 1
    assert "ended already: cancelled" in again.err


@pytest.mark.parametrize("command", ["result", "status", "cancel"])
def test_an_id_that_nobody_sent_is_exit_1(served: Shell, command: str) -> None:
    done = served.run(command, "nobody", "--json")
    assert (done.code, done.out) == (1, "")
    assert "never sent" in done.err
    assert done.err.count("\n") == 1


def test_a_cancel_of_an_unknown_id_does_not_wait_for_a_later_send(served: Shell) -> None:
    served.run("cancel", "not-yet")
    assert served.run("enqueue", "shop:app", "shop.add", "1", "--id", "not-yet", "--wait", "10").out == "not-yet\n2\n"


def test_queues_counts_jobs_of_the_store_that_url_names(shell: Shell) -> None:
    url = f"sqlite:///{shell.folder / 'other.db'}"
    done = shell.run("enqueue", "shop:app", "shop.add", "1", "--url", url, "--delay", "60")
    shell.run("cancel", done.out.strip(), "--url", url)
    assert shell.run("queues", "--url", url).out == "no queue has unfinished jobs, and no worker is there\n"
    shell.run("enqueue", "shop:app", "shop.add", "1", "--url", url, "--queue", "mail", "--delay", "60")
    assert not shell.store.exists()
    [row] = shell.run("queues", "shop:app", "--url", url, "--json").json
    assert (row["queue"], row["ready"], row["delayed"]) == ("mail", 0, 1)
    _, line = shell.run("queues", "--url", url).out.splitlines()
    assert line.split() == ["mail", "0", "1", "0", "0", "0", "-", "-", "-", "-", "0", "no", "worker"]


def test_a_real_worker_is_seen_with_what_it_did_and_does(served: Shell) -> None:
    served.run("enqueue", "shop:app", "shop.add", "1", "--wait", "10")
    served.run("enqueue", "shop:app", "shop.nap", "60", "--id", "seen")
    why: list[dict[str, str]] = []
    while not any("has run it for" in reason["text"] for reason in why):  # until the heartbeat that names it, 0.3 s at most
        why = served.run("why", "shop:app", "seen", "--json").json["reasons"]
        assert [reason["code"] for reason in why] in (["held"], ["due", "place", "start"])
    [worker] = served.run("workers", "shop:app", "--json").json
    assert {found["id"] for found in worker["longest"]} >= {"seen"}
    [queue] = [q for q in served.run("queues", "--json").json if q["queue"] == "default"]
    assert (queue["workers"], queue["slots"]) == (1, 100)
    assert queue["running"] >= 1
    assert queue["rate"] is None or queue["rate"] > 0
    assert served.run("cancel", "seen").code == 0


def test_version_says_its_own_and_what_it_stands_on(shell: Shell) -> None:
    assert shell.run("version").out.startswith("culm ")
    assert shell.run("version", "--json").json["sqlite"] == sqlite3.sqlite_version


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"culm {command}" in re.split(r"Examples?:", capsys.readouterr().out)[1]
    *group, name = command.split()
    assert main([*group, "--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out


def test_no_command_is_without_a_test_of_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = re.findall(r"^  (\w+) ", capsys.readouterr().out.partition("Commands:")[2], flags=re.MULTILINE)
    assert set(listed) == {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("worker", "demo")])
def test_every_command_that_answers_answers_machines_too(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_output_has_no_colours_where_there_is_no_terminal(served: Shell) -> None:
    for arguments in (("--help",), ("queues",), ("enqueue", "--nope")):
        done = served.run(*arguments)
        assert "\x1b" not in done.out + done.err


def test_a_tree_is_cancelled_by_its_root(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.add", "1", "2", "--id", "order")
    done = shell.run("cancel", "order", "--tree", "--json")
    assert (done.code, done.json) == (0, {"id": "order", "asked": ["order"]})
    again = shell.run("cancel", "order", "--tree")
    assert (again.code, "nothing to cancel" in again.err) == (1, True)
    part = shell.run("cancel", "order~1", "--tree")
    assert (part.code, "only a whole tree" in part.err) == (2, True)
