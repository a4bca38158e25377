"""Bad input: one clear line on stderr, nothing on stdout, no traceback, and nothing changed."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.cli.shell import Done, Shell

SQLITE_MISSING = "sqlite:////nowhere/at/all/jobs.db"

Row = tuple[str, list[str], int, str]

TABLE: list[Row] = [
    ("a command that is none", ["frobnicate"], 2, "frobnicate"),
    ("an option that is none", ["queues", "--jso"], 2, "--json"),
    ("an option of enqueue that is none", ["enqueue", "shop:app", "shop.add", "1", "--prioritty", "3"], 2, "did you mean --priority?"),
    ("a number that is none", ["worker", "shop:app", "-c", "many"], 2, "--concurrency"),
    ("concurrency of nought", ["worker", "shop:app", "-c", "0"], 2, "from 1 to 100,000"),
    ("a missing argument", ["status"], 2, "ID"),
    ("an argument too many", ["status", "a", "b", "c"], 2, "3 words"),
    ("an unknown task", ["enqueue", "shop:app", "shop.ad", "1"], 2, "did you mean 'shop.add'?"),
    ("an argument of a wrong type", ["enqueue", "shop:app", "shop.add", '"x"'], 2, "argument 'a': Expected `int`"),
    ("an argument that is no JSON", ["enqueue", "shop:app", "shop.add", "x"], 2, "is not JSON"),
    ("too few arguments", ["enqueue", "shop:app", "shop.add"], 2, "missing"),
    ("a delay that is no number", ["enqueue", "shop:app", "shop.add", "1", "--delay", "nan"], 2, "delay must be"),
    ("a negative delay", ["enqueue", "shop:app", "shop.add", "1", "--delay", "-1"], 2, "delay must be"),
    ("an absurd priority", ["enqueue", "shop:app", "shop.add", "1", "--priority", "11"], 2, "from 0 to 9"),
    ("an instant without a zone", ["enqueue", "shop:app", "shop.add", "1", "--at", "2030-01-01"], 2, "time zone"),
    ("an instant that is none", ["enqueue", "shop:app", "shop.add", "1", "--at", "soon"], 2, "ISO 8601"),
    ("delay and at", ["enqueue", "shop:app", "shop.add", "1", "--at", "2030-01-01T00:00Z", "--delay", "1"], 2, "exclude"),
    ("a queue name with a space", ["enqueue", "shop:app", "shop.add", "1", "--queue", "a b"], 2, "queue must be"),
    ("a wait that is no number", ["enqueue", "shop:app", "shop.add", "1", "--wait", "nan"], 2, "wait must be"),
    ("a timeout that is no number", ["result", "x", "--timeout", "nan", "--url", "sqlite:///here.db"], 2, "timeout must be"),
    ("no colon", ["worker", "shop"], 78, "say MODULE:APP"),
    ("no such module", ["worker", "shap:app"], 78, "there is no module 'shap'"),
    ("no such app", ["worker", "shop:ap"], 78, "its apps are shop:app"),
    ("not an app", ["worker", "shop:add"], 78, "not an App"),
    ("a module that raises", ["worker", "broken:app"], 78, "broken.py:1: ZeroDivisionError"),
    ("a module that is no Python", ["worker", "garbage:app"], 78, "SyntaxError"),
    ("a module that imports what is not there", ["worker", "needy:app"], 78, "No module named 'not_there'"),
    ("a task name twice", ["worker", "double:app"], 78, "is registered already"),
    ("a lease that is too short", ["worker", "shop:app", "--lease", "4", "--heartbeat", "2"], 78, "two heartbeats"),
    ("an unknown scheme", ["queues", "--url", "redys://u:secret@h"], 78, "memory://, sqlite://"),
    ("an unknown store option", ["queues", "--url", "sqlite:///here.db?durability=none"], 78, "full|relaxed"),
    ("a path that cannot be", ["queues", "--url", SQLITE_MISSING], 78, "/nowhere/at/all"),
    ("a store in memory", ["enqueue", "shop:app", "shop.add", "1", "--url", "memory://"], 78, "inside one process"),
    ("a worker in memory", ["worker", "shop:app", "--url", "memory://"], 78, "inside one process"),
    ("some other file", ["status", "x", "--url", "sqlite:///shop.py"], 78, "not a culm store"),
    ("a store that is not there", ["queues", "--url", "sqlite:///x.db"], 78, "there is no store at"),
    ("a newer schema", ["status", "x", "--url", "sqlite:///newer.db"], 78, "upgrade culm"),
    ("a doctor of no store", ["doctor", "--url", "sqlite:///x.db"], 78, "there is no store at"),
    ("a doctor of no known scheme", ["doctor", "--url", "redys://u:secret@h"], 78, "did you mean redis://?"),
    (
        "a doctor of a server that is not there",
        ["doctor", "--url", "redis://u:secret@127.0.0.1:1"],
        1,
        "cannot connect to redis://127.0.0.1:1",
    ),
    ("a doctor of too much", ["doctor", "shop:app", "twice"], 2, "twice"),
    ("a state that is none", ["jobs", "--state", "dying", "--url", "sqlite:///here.db"], 2, "'dead'"),
    ("a limit of nought", ["jobs", "--limit", "0", "--url", "sqlite:///here.db"], 2, "--limit must be 1 or more"),
    ("an age that is none", ["jobs", "--older-than", "soon", "--url", "sqlite:///here.db"], 2, "such as 15m, got 'soon'"),
    ("an age with a minus", ["dead", "list", "--newer-than=-5", "--url", "sqlite:///here.db"], 2, "--newer-than must be seconds"),
    ("a why of nothing", ["why"], 2, "ID"),
    ("a why of too much", ["why", "a", "b", "c"], 2, "3 words"),
    ("a why of nobody", ["why", "nobody", "--url", "sqlite:///here.db"], 1, "job nobody is not known"),
    ("a queue that cannot be", ["pause", "a b", "--url", "sqlite:///here.db"], 2, "queue must be"),
    ("a purge without a yes", ["purge", "default", "--url", "sqlite:///here.db"], 2, "would cancel the 1 open jobs"),
    ("a drain for ever and a day", ["drain", "x", "--timeout", "inf", "--url", "sqlite:///here.db"], 2, "--timeout must be"),
    ("a top without a pause", ["top", "--every", "0", "--url", "sqlite:///here.db"], 2, "--every must be"),
    ("a dead command that is none", ["dead", "bury"], 2, "bury"),
    ("a dead command that is missing", ["dead"], 2, "list, show, replay, discard"),
    ("a replay of nothing", ["dead", "replay", "--url", "sqlite:///here.db"], 2, "dead replay what?"),
    ("a discard of everything and one", ["dead", "discard", "x", "--all", "--url", "sqlite:///here.db"], 2, "one of these only"),
    ("a replay of nobody", ["dead", "replay", "x", "--dry-run", "--app", "shop"], 78, "say MODULE:APP"),
    ("dead letters of a store that is not there", ["dead", "list", "--url", "sqlite:///x.db"], 78, "there is no store at"),
    ("workers of a store in memory", ["workers", "--url", "memory://"], 78, "inside one process"),
    ("queues of a server that is not there", ["top", "--url", "redis://u:secret@127.0.0.1:1"], 1, "cannot connect to redis://127.0.0.1:1"),
    ("a demo of no folder", ["demo", "nowhere"], 2, "there is no folder"),
    ("a murder of the only worker", ["demo", ".", "--kill", "--processes", "1"], 2, "--processes 2"),
    ("a demo into no folder", ["demo", ".", "--store", "nowhere/x.db"], 78, "nowhere"),
]


# A process for each row, forked from one that has imported the command line: most of a command's time is Python's start.
FORKS = """
import json, os, sys, tempfile
from culm.cli.main import main

main(["status", "a", "b", "c"])  # warms up: some is imported at its first use only
children = []
for arguments in json.load(sys.stdin):
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.exit(main(arguments))
    children.append((child, out, err))

def text(file):
    file.seek(0)
    return file.read().decode()

answers = [(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text(out), text(err)) for child, out, err in children]
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("corner"))
    (shell.folder / "broken.py").write_text("1 / 0\n")
    (shell.folder / "garbage.py").write_text("def :\n")
    (shell.folder / "needy.py").write_text("import not_there\n")
    double = "@app.task(name='same')\ndef {0}() -> None: ...\n"
    (shell.folder / "double.py").write_text("from culm import App\napp = App()\n" + double.format("one") + double.format("two"))
    for url in ("sqlite:///newer.db", "sqlite:///here.db"):
        assert shell.run("enqueue", "shop:app", "shop.add", "1", "--delay", "9999", "--url", url).code == 0
    with closing(sqlite3.connect(shell.folder / "newer.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    return shell


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


@pytest.fixture(scope="module")
def answers(corner: Shell) -> dict[str, Done]:
    before = contents(corner.folder)
    rows = msgspec.json.encode([row[1] for row in TABLE])
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=corner.folder, env=corner.env, input=rows, capture_output=True, check=True)
    assert contents(corner.folder) == before
    return {row[0]: Done(*said) for row, said in zip(TABLE, msgspec.json.decode(done.stdout), strict=True)}


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_bad_input_is_one_clear_line(answers: dict[str, Done], row: Row) -> None:
    name, _, code, says = row
    done = answers[name]
    lines = [line for line in done.err.splitlines() if " INFO " not in line]  # a worker says first what it is
    assert done.code == code, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith("culm: ")
    assert says in lines[0]
    assert done.out == ""
    assert "secret" not in done.err


@pytest.mark.parametrize(("target", "code"), [("shap:app", 78), ("shop:app", 2)])
def test_a_supervisor_gives_up_what_cannot_start(shell: Shell, target: str, code: int) -> None:
    done = shell.run("worker", target, "--processes", "3", "-c", "0")
    assert done.code == code
    assert len([line for line in done.err.splitlines() if line.startswith("culm: ")]) == 1
