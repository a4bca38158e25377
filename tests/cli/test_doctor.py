"""`culm doctor` says what a newcomer has to know of a store; one that may lose what it is given is refused, with exit 78."""

import platform
import sqlite3
from pathlib import Path

import pytest

import culm
from culm.cli.doctor import Clocks, Latency, findings
from culm.job import Job
from tests.cli.desk import Desk
from tests.cli.shell import Shell
from tests.servers import HOST, RedisServer


def test_of_sqlite(shell: Shell) -> None:
    shell.run("enqueue", "shop:app", "shop.add", "1")
    done = shell.run("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert found["address"] == f"sqlite:///{shell.store}"
    assert (found["place"], found["engine"]) == (str(shell.store), f"SQLite {sqlite3.sqlite_version}")
    assert found["durability"] == "D2: survives a power cut"
    assert (found["layout"], found["workers"]) == (1, 0)
    assert 0 < found["latency_ms"] <= found["worst_ms"]
    assert (found["culm"], found["python"]) == (culm.__version__, platform.python_version())
    assert found["attention"] == ["queue default has 1 jobs due, and no live worker listens to it"]
    assert "attention       queue default has 1 jobs due" in shell.run("doctor").out
    assert found["latency_ms"] < 1_000
    assert 0 <= found["clock_error_ms"] < 1_000
    assert abs(found["clock_ahead_ms"]) < 1_000
    relaxed = shell.run("doctor", "shop:app", "--url", f"sqlite:///{shell.store}?durability=relaxed")
    assert "durability      D1: survives a crash of the process, not a power cut\n" in relaxed.out


def test_of_memory(shell: Shell) -> None:
    done = shell.run("doctor", "--url", "memory://")
    assert (done.code, done.err) == (0, "")
    assert "durability      D0: survives nothing\n" in done.out


def test_what_wants_attention_is_a_line_each(desk: Desk) -> None:
    assert desk.culm("doctor", "--json").json["attention"] == []
    desk.culm("pause", "mail")
    desk.die(Job(id="a", task="t"))
    assert desk.culm("doctor", "--json").json["attention"] == [
        "queue mail is paused; go on with: culm resume mail",
        "there are dead letters; see: culm dead list",
    ]


def test_a_clock_that_is_off_and_a_slow_store_want_attention() -> None:
    fast, slow = Latency(0.1, 3.0), Latency(80.0, 90.0)
    assert findings(Clocks(900, 1), fast, [], has_dead=False) == []
    assert findings(Clocks(-1_500, 800), fast, [], has_dead=False) == [], "it may be the way there and back"
    [off] = findings(Clocks(-2_500, 1), fast, [], has_dead=False)
    assert "-2.5 s off" in off
    [far] = findings(Clocks(0, 1), slow, [], has_dead=False)
    assert "a look-up takes 80 ms" in far


@pytest.mark.server
def test_of_redis_without_its_password(shell: Shell, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "r", appendonly="yes", requirepass="geheim")
    try:
        url = f"redis://:geheim@{HOST}:{server.port}/0?namespace=shop"
        done = shell.run("doctor", "--url", url, "--json")
        assert (done.code, done.err) == (0, "")
        found = done.json
        assert found["address"] == url.replace("geheim", "***")
        assert found["engine"].startswith("Redis ")
        assert found["durability"].startswith("D1: survives a crash of the server")
        assert (found["namespace"], found["eviction"], found["layout"]) == ("shop", "noeviction", 1)
        assert abs(found["clock_ahead_ms"]) < 1_000
        assert "geheim" not in shell.run("doctor", "--url", url).out
    finally:
        server.kill()


@pytest.mark.server
def test_a_server_that_may_lose_what_it_is_given_is_one_clear_line_and_exit_78(shell: Shell, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "r")
    try:
        for words, says in (
            (("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), "may drop keys when it is full (maxmemory-policy allkeys-lru)"),
            (("REPLICAOF", HOST, "1"), "is a replica, which takes no writes; give the address of its master"),
        ):
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            server.ask(*words)
            for arguments in (("doctor",), ("doctor", "--json"), ("queues",)):
                done = shell.run(*arguments, "--url", server.url)
                assert (done.code, done.out) == (78, "")
                assert says in done.err
                assert done.err.count("\n") == 1
    finally:
        server.kill()
