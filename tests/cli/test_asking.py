"""What a caller can do from a terminal, against a worker that runs in another process."""

import sqlite3

import pytest

from culm.cli.main import main
from tests.cli.shell import Shell


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
    assert shell.run("queues", "--url", url).out == "no queue has unfinished jobs\n"
    shell.run("enqueue", "shop:app", "shop.add", "1", "--url", url, "--queue", "mail", "--delay", "60")
    assert not shell.store.exists()
    [row] = shell.run("queues", "shop:app", "--url", url, "--json").json
    assert (row["queue"], row["ready"], row["delayed"]) == ("mail", 0, 1)
    head, line = shell.run("queues", "--url", url).out.splitlines()
    assert head.split() == ["queue", "ready", "delayed", "waiting", "leased", "oldest"]
    assert line.split() == ["mail", "0", "1", "0", "0", "-"]


def test_version_says_its_own_and_what_it_stands_on(shell: Shell) -> None:
    assert shell.run("version").out.startswith("culm ")
    assert shell.run("version", "--json").json["sqlite"] == sqlite3.sqlite_version


@pytest.mark.parametrize("command", ["worker", "enqueue", "result", "status", "cancel", "queues", "doctor", "demo", "version"])
def test_each_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"culm {command}" in capsys.readouterr().out.partition("Example:")[2]
    assert main([]) == 0
    assert f"  {command} " in capsys.readouterr().out


def test_output_has_no_colours_where_there_is_no_terminal(served: Shell) -> None:
    for arguments in (("--help",), ("queues",), ("enqueue", "--nope")):
        done = served.run(*arguments)
        assert "\x1b" not in done.out + done.err
